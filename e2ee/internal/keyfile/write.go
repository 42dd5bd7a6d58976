package keyfile

import (
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
)

// The file format for room keys that clients exchange (requirement 16.10). A file is
// authenticated as a whole before its text is parsed, and its cost is bounded: its size,
// and the rounds of its key derivation.
const (
	exportHead = "-----BEGIN MEGOLM SESSION DATA-----"
	exportTail = "-----END MEGOLM SESSION DATA-----"
	exportLine = 96 // characters: each line has whole groups of three bytes
	// exportVersion, salt, IV and rounds come before the data, a MAC after it.
	exportVersion = 1
	exportPrefix  = 1 + 16 + 16 + 4
	// maxExport bounds a file that is imported, in bytes.
	maxExport = 64 << 20
	// maxImport bounds how many keys a file may hold.
	maxImport = 100_000
	// maxImported bounds one key in a file, in bytes.
	maxImported = 64 << 10
)

// Reasons why a file is not imported.
var (
	// ErrNotAnExport means that something is no file of exported keys.
	ErrNotAnExport = errors.New("this is not a file of exported keys")
	// ErrTooCostly means that a file is larger, or has more key derivation rounds, than any
	// client's.
	ErrTooCostly = errors.New("the file asks for too much work")
	// ErrWrongPassphrase means that a passphrase does not open a file, or the file is damaged.
	ErrWrongPassphrase = errors.New("the passphrase does not open the file")
)

// Writer encrypts what is written to it and writes it out in lines of base64.
type Writer struct {
	w      io.Writer
	stream cipher.Stream
	mac    hash.Hash
	line   []byte // bytes of an unfinished line
}

// NewWriter begins a file. rounds is the number of key derivation rounds, the cost of
// guessing its passphrase.
func NewWriter(passphrase secret.String, rounds uint32, w io.Writer) (*Writer, error) {
	prefix := make([]byte, exportPrefix)
	prefix[0] = exportVersion
	if _, err := rand.Read(prefix[1:33]); err != nil {
		return nil, fmt.Errorf("make a salt: %w", err)
	}
	prefix[17+8] &= 0x7f // bit 63 of the IV, for implementations with a counter of 64 bits
	binary.BigEndian.PutUint32(prefix[33:], rounds)
	block, mac, err := deriveExport(passphrase, prefix)
	if err != nil {
		return nil, err
	}
	out := &Writer{w: w, stream: cipher.NewCTR(block, prefix[17:33]), mac: mac}
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

// Write encrypts and writes a part of the text.
func (e *Writer) Write(plain []byte) error {
	e.stream.XORKeyStream(plain, plain)
	return e.raw(plain, true)
}

// raw writes whole lines; authentic means that the bytes are part of the MAC.
func (e *Writer) raw(p []byte, authentic bool) error {
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

func (e *Writer) put(p []byte) error {
	if _, err := e.w.Write(p); err != nil {
		return fmt.Errorf("write keys: %w", err)
	}
	return nil
}

// End writes the last part of the text and the end of the file.
func (e *Writer) End(plain []byte) error {
	if err := e.Write(plain); err != nil {
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
