package certificate

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Pair is a certificate, with those that lead to its authority, and its private key. Create
// it with [Load].
type Pair struct {
	certFile, keyFile string
	inUse             atomic.Pointer[tls.Certificate]

	mu   sync.Mutex // for reading the files
	seen [2]fs.FileInfo
}

// Load reads a pair from files in PEM form.
func Load(certFile, keyFile string) (*Pair, error) {
	p := &Pair{certFile: certFile, keyFile: keyFile}
	if err := p.Reload(); err != nil {
		return nil, err
	}
	return p, nil
}

// Config returns how connections are made with the pair that is in use when they begin.
func (p *Pair) Config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return p.inUse.Load(), nil
		},
	}
}

// NotAfter returns when the certificate in use expires.
func (p *Pair) NotAfter() time.Time { return p.inUse.Load().Leaf.NotAfter }

// Reload reads the files. After an error the pair before stays in use.
func (p *Pair) Reload() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	// Looked at before they are read, so that what changes meanwhile is seen to have changed.
	seen, err := p.look()
	if err != nil {
		return err
	}
	return p.read(seen)
}

// reloadChanged reads the files if they are others than those that were read last.
func (p *Pair) reloadChanged() (changed bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen, err := p.look()
	switch {
	case err != nil && p.seen == [2]fs.FileInfo{}:
		return false, nil // reported already
	case err != nil:
		p.seen = [2]fs.FileInfo{}
		return true, err
	case same(p.seen[0], seen[0]) && same(p.seen[1], seen[1]):
		return false, nil
	}
	return true, p.read(seen)
}

func (p *Pair) look() (seen [2]fs.FileInfo, err error) {
	for i, name := range []string{p.certFile, p.keyFile} {
		if seen[i], err = os.Stat(name); err != nil {
			return [2]fs.FileInfo{}, fmt.Errorf("look at a file of the certificate: %w", err)
		}
	}
	return seen, nil
}

// read puts into use what is in the files. What was seen of them counts as read, also if it
// was wrong.
func (p *Pair) read(seen [2]fs.FileInfo) error {
	p.seen = seen
	pair, err := tls.LoadX509KeyPair(p.certFile, p.keyFile)
	if err != nil {
		return fmt.Errorf("read the certificate %s and its key %s: %w", p.certFile, p.keyFile, err)
	}
	if pair.Leaf == nil {
		return errors.New("read the certificate: there is none")
	}
	p.inUse.Store(&pair)
	return nil
}

// same reports whether a file was not touched. A file that another took the place of is
// another one, also if it is as old and as long.
func same(a, b fs.FileInfo) bool {
	return a != nil && b != nil && os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// Watch looks at the files from time to time until ctx is done. It calls changed after each
// change of them, with the error if the pair before stays in use.
func (p *Pair) Watch(ctx context.Context, every time.Duration, changed func(error)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if is, err := p.reloadChanged(); is {
				changed(err)
			}
		}
	}
}
