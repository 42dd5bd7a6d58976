package e2ee

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/strictjson"
)

// The file format for room keys that clients exchange (requirement 16.10). A file is
// checked as a whole before anything in it is looked at, and what it may cost is bounded:
// its size, and the work of deriving its key.
const (
	exportHead = "-----BEGIN MEGOLM SESSION DATA-----"
	exportTail = "-----END MEGOLM SESSION DATA-----"
	exportLine = 96 // characters, so that lines are of whole groups of three bytes
	// exportRounds is what clients use today; the spec asks for at least 100,000.
	exportRounds = 500_000
	// exportVersion, salt, IV and rounds come before the data, a MAC after it.
	exportVersion = 1
	exportPrefix  = 1 + 16 + 16 + 4
	// MaxExport bounds a file that is imported, in bytes.
	MaxExport = 64 << 20
	// maxImport bounds how many keys a file may hold.
	maxImport = 100_000
	// maxImported bounds one key in a file, in bytes.
	maxImported = 64 << 10
	// importBatch is how many keys are stored at a time, importBytes how large they may be
	// together.
	importBatch = 250
	importBytes = 1 << 20
)

// Reasons why a file is not imported.
var (
	// ErrNotAnExport says that something is no file of exported keys.
	ErrNotAnExport = errors.New("this is not a file of exported keys")
	// ErrExportTooCostly says that a file asks for more work than any client's does.
	ErrExportTooCostly = errors.New("the file asks for too much work")
	// ErrWrongPassphrase says that a passphrase does not open a file, or the file is damaged.
	ErrWrongPassphrase = errors.New("the passphrase does not open the file")
)

// Imported tells what became of an import.
type Imported struct {
	Total    int `json:"total"`
	Imported int `json:"imported"` // news
	Refused  int `json:"refused"`  // of no use
}

// ExportKeys writes all room keys of the device in the standard file format. Nothing is
// written before it is certain that it can begin.
func (d *Device) ExportKeys(ctx context.Context, passphrase secret.String, w io.Writer) error {
	return d.exportKeys(ctx, passphrase, exportRounds, w)
}

func (d *Device) exportKeys(ctx context.Context, passphrase secret.String, rounds uint32, w io.Writer) error {
	if d.mode != ModeProxied {
		return ErrNotProxied
	}
	out, err := newExportWriter(passphrase, rounds, w)
	if err != nil {
		return err
	}
	first := true
	for row, err := range d.eng.store.AllInboundSessions(ctx, d.acct.row, d.rowID) {
		if err != nil {
			return fmt.Errorf("load room keys: %w", err)
		}
		entry, _, err := sessionData(&row)
		if err != nil {
			return err
		}
		before := byte(',')
		if first {
			before, first = '[', false
		}
		entry = entry.Set("room_id", strictjson.Quote(row.RoomID.String())).Set("session_id", strictjson.Quote(row.SessionID.String()))
		if err := out.write(append([]byte{before}, entry.Encode()...)); err != nil {
			return err
		}
	}
	end := []byte("]")
	if first {
		end = []byte("[]")
	}
	return out.end(end)
}

// exportWriter encrypts what is written to it and writes it out in lines of base64.
type exportWriter struct {
	w      io.Writer
	stream cipher.Stream
	mac    hash.Hash
	line   []byte // bytes that make no whole line yet
}

func newExportWriter(passphrase secret.String, rounds uint32, w io.Writer) (*exportWriter, error) {
	prefix := make([]byte, exportPrefix)
	prefix[0] = exportVersion
	if _, err := rand.Read(prefix[1:33]); err != nil {
		return nil, fmt.Errorf("make a salt: %w", err)
	}
	prefix[17+8] &= 0x7f // bit 63 of the IV, for those whose counter has 64 bits
	binary.BigEndian.PutUint32(prefix[33:], rounds)
	block, mac, err := deriveExport(passphrase, prefix)
	if err != nil {
		return nil, err
	}
	out := &exportWriter{w: w, stream: cipher.NewCTR(block, prefix[17:33]), mac: mac}
	if _, err := io.WriteString(w, exportHead+"\n"); err != nil {
		return nil, fmt.Errorf("write keys: %w", err)
	}
	return out, out.raw(prefix, true)
}

// deriveExport derives the keys of a file from its prefix.
func deriveExport(passphrase secret.String, prefix []byte) (cipher.Block, hash.Hash, error) {
	rounds := binary.BigEndian.Uint32(prefix[33:exportPrefix])
	key, err := pbkdf2.Key(sha512.New, passphrase.Reveal(), prefix[1:17], int(rounds), 64)
	if err != nil {
		return nil, nil, fmt.Errorf("derive the key of an export: %w", err)
	}
	block, err := aes.NewCipher(key[:32])
	if err != nil {
		return nil, nil, fmt.Errorf("derive the key of an export: %w", err)
	}
	return block, hmac.New(sha256.New, key[32:]), nil
}

// write encrypts.
func (e *exportWriter) write(plain []byte) error {
	e.stream.XORKeyStream(plain, plain)
	return e.raw(plain, true)
}

// raw writes whole lines; authentic says that the bytes go into the MAC.
func (e *exportWriter) raw(p []byte, authentic bool) error {
	if authentic {
		e.mac.Write(p)
	}
	e.line = append(e.line, p...)
	const whole = exportLine / 4 * 3
	var out []byte
	for len(e.line) >= whole {
		out = base64.StdEncoding.AppendEncode(out, e.line[:whole])
		out = append(out, '\n')
		e.line = e.line[whole:]
	}
	return e.put(out)
}

func (e *exportWriter) put(p []byte) error {
	if _, err := e.w.Write(p); err != nil {
		return fmt.Errorf("write keys: %w", err)
	}
	return nil
}

// end writes the last of the text, and what comes after it.
func (e *exportWriter) end(plain []byte) error {
	if err := e.write(plain); err != nil {
		return err
	}
	if err := e.raw(e.mac.Sum(nil), false); err != nil {
		return err
	}
	var out []byte
	if len(e.line) > 0 {
		out = append(base64.StdEncoding.AppendEncode(out, e.line), '\n')
	}
	return e.put(append(out, exportTail+"\n"...))
}
