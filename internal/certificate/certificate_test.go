package certificate_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"e2ee-proxy/internal/certificate"
)

// issue makes a certificate for a name, in PEM form.
func issue(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// replace puts a file into the place of another, as most programs that renew certificates do.
func replace(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// server serves TLS with the pair in two files, and reports changes.
type server struct {
	t                 *testing.T
	certFile, keyFile string
	pair              *certificate.Pair
	address           string
	changes           chan error
}

func start(t *testing.T) *server {
	t.Helper()
	s := &server{t: t, certFile: filepath.Join(t.TempDir(), "cert.pem"), keyFile: filepath.Join(t.TempDir(), "key.pem"), changes: make(chan error, 16)}
	cert, key := issue(t, "first")
	replace(t, s.certFile, cert)
	replace(t, s.keyFile, key)
	var err error
	if s.pair, err = certificate.Load(s.certFile, s.keyFile); err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", s.pair.Config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	s.address = ln.Addr().String()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn) }() // ends with the client's connection
		}
	}()
	ctx, stop := context.WithCancel(context.Background())
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		s.pair.Watch(ctx, 5*time.Millisecond, func(err error) { s.changes <- err })
	}()
	t.Cleanup(func() { stop(); <-watching })
	return s
}

// shown returns the name in the certificate that a new connection is shown.
func (s *server) shown() string {
	s.t.Helper()
	conn, err := tls.Dial("tcp", s.address, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
}

// next returns what the next change of the files led to.
func (s *server) next() error {
	s.t.Helper()
	select {
	case err := <-s.changes:
		return err
	case <-time.After(20 * time.Second):
		s.t.Fatal("no change was noticed")
		return nil
	}
}

// A new pair is taken for new connections, and those that there are go on.
func TestReload(t *testing.T) {
	t.Parallel()
	s := start(t)
	old, err := tls.Dial("tcp", s.address, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := old.Handshake(); err != nil {
		t.Fatal(err)
	}
	if got := s.shown(); got != "first" {
		t.Fatalf("the first certificate is %q", got)
	}
	cert, key := issue(t, "second")
	replace(t, s.keyFile, key)
	replace(t, s.certFile, cert)
	for s.shown() != "second" { // the key alone does not fit, if it was seen alone
		_ = s.next()
	}
	if got := s.pair.NotAfter(); time.Until(got) < 50*time.Minute {
		t.Errorf("it expires at %v", got)
	}
	if _, err := io.WriteString(old, "still"); err != nil {
		t.Errorf("a connection from before: %v", err)
	}
	if _, err := io.ReadFull(old, make([]byte, 5)); err != nil {
		t.Errorf("a connection from before: %v", err)
	}
}

// A pair that does not fit, one that is none, and files that are gone leave the one before in
// use; each is said once, and what is right later is taken.
func TestBrokenPairsAreNotTaken(t *testing.T) {
	t.Parallel()
	s := start(t)
	other, _ := issue(t, "other")
	for what, step := range []struct {
		do   func()
		want string
	}{
		{func() { replace(t, s.certFile, other) }, "does not match"},
		{func() { replace(t, s.certFile, []byte("rubbish")) }, "failed to find any PEM data"},
		{func() { _ = os.Remove(s.certFile) }, "no such file"},
	} {
		step.do()
		if err := s.next(); err == nil || !strings.Contains(err.Error(), step.want) {
			t.Errorf("step %d: %v", what, err)
		}
		if got := s.shown(); got != "first" {
			t.Errorf("step %d: the certificate is %q", what, got)
		}
		if err := s.pair.Reload(); err == nil {
			t.Errorf("step %d: reloading says nothing", what)
		}
	}
	cert, key := issue(t, "second")
	replace(t, s.keyFile, key)
	replace(t, s.certFile, cert)
	for s.shown() != "second" {
		_ = s.next()
	}
	select {
	case err := <-s.changes:
		if err != nil {
			t.Errorf("something was said twice: %v", err)
		}
	default:
	}
}

// Errors name the files and nothing that is in them.
func TestErrorsHoldNoKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := issue(t, "a")
	for name, files := range map[string][2]string{
		"no certificate":  {"", string(key)},
		"no key":          {string(cert), "c2VjcmV0IHRleHQ"},
		"the wrong order": {string(key), string(cert)},
	} {
		certFile, keyFile := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
		replace(t, certFile, []byte(files[0]))
		replace(t, keyFile, []byte(files[1]))
		_, err := certificate.Load(certFile, keyFile)
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		text := err.Error()
		if !strings.Contains(text, keyFile) || strings.Contains(text, "c2VjcmV0") || strings.Contains(text, strings.Split(string(key), "\n")[1][:20]) {
			t.Errorf("%s: %s", name, text)
		}
	}
	if _, err := certificate.Load(filepath.Join(dir, "nothing"), filepath.Join(dir, "key")); err == nil {
		t.Error("no error for a file that is not there")
	}
}
