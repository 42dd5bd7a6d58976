package e2ee

import (
	"bytes"
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

	"github.com/go-json-experiment/json/jsontext"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
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
	// importBatch is how many keys are stored at a time.
	importBatch = 250
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
		entry = entry.set("room_id", quoted(row.RoomID.String())).set("session_id", quoted(row.SessionID.String()))
		if err := out.write(append([]byte{before}, entry.encode()...)); err != nil {
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
	stream, mac, err := deriveExport(passphrase, prefix)
	if err != nil {
		return nil, err
	}
	out := &exportWriter{w: w, stream: stream, mac: mac}
	if _, err := io.WriteString(w, exportHead+"\n"); err != nil {
		return nil, fmt.Errorf("write keys: %w", err)
	}
	return out, out.raw(prefix, true)
}

// deriveExport derives the keys of a file from its prefix.
func deriveExport(passphrase secret.String, prefix []byte) (cipher.Stream, hash.Hash, error) {
	rounds := binary.BigEndian.Uint32(prefix[33:exportPrefix])
	key, err := pbkdf2.Key(sha512.New, passphrase.Reveal(), prefix[1:17], int(rounds), 64)
	if err != nil {
		return nil, nil, fmt.Errorf("derive the key of an export: %w", err)
	}
	block, err := aes.NewCipher(key[:32])
	if err != nil {
		return nil, nil, fmt.Errorf("derive the key of an export: %w", err)
	}
	return cipher.NewCTR(block, prefix[17:33]), hmac.New(sha256.New, key[32:]), nil
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

// openExport decrypts a file.
func openExport(passphrase secret.String, file []byte) ([]byte, error) {
	if len(file) > MaxExport {
		return nil, ErrExportTooCostly
	}
	text := bytes.TrimSpace(file)
	text, headed := bytes.CutPrefix(text, []byte(exportHead))
	text, tailed := bytes.CutSuffix(text, []byte(exportTail))
	if !headed || !tailed {
		return nil, ErrNotAnExport
	}
	// The decoder ignores line ends, and there may be other white space.
	text = bytes.Map(func(r rune) rune {
		if r == ' ' || r == '\t' || r == '=' {
			return -1
		}
		return r
	}, text)
	raw, err := base64.RawStdEncoding.AppendDecode(nil, text)
	if err != nil || len(raw) < exportPrefix+sha256.Size || raw[0] != exportVersion {
		return nil, ErrNotAnExport
	}
	rounds := binary.BigEndian.Uint32(raw[33:exportPrefix])
	switch {
	case rounds == 0:
		return nil, ErrNotAnExport
	case rounds > maxIterations:
		return nil, ErrExportTooCostly
	}
	stream, mac, err := deriveExport(passphrase, raw[:exportPrefix])
	if err != nil {
		return nil, err
	}
	body, sum := raw[:len(raw)-sha256.Size], raw[len(raw)-sha256.Size:]
	mac.Write(body)
	if !hmac.Equal(mac.Sum(nil), sum) {
		return nil, ErrWrongPassphrase
	}
	plain := body[exportPrefix:]
	stream.XORKeyStream(plain, plain)
	return plain, nil
}

// ImportKeys takes room keys from a file in the standard format. They prove nothing of
// their senders: messages that they open are shown grey, source import.
func (d *Device) ImportKeys(ctx context.Context, passphrase secret.String, file []byte) (Imported, error) {
	if d.mode != ModeProxied {
		return Imported{}, ErrNotProxied
	}
	plain, err := openExport(passphrase, file)
	if err != nil {
		return Imported{}, err
	}
	defer clear(plain)
	defer d.kick() // what is taken goes into the backup
	if err := checkImport(plain); err != nil {
		return Imported{}, err
	}
	var out Imported
	var rows []store.InboundSession
	flush := func() error {
		kept, err := d.keepKept(ctx, rows)
		out.Imported += kept
		rows = rows[:0]
		return err
	}
	err = eachImported(plain, func(raw []byte) error {
		out.Total++
		row, err := importedSession(bytes.Clone(raw))
		if err != nil {
			out.Refused++
			return nil
		}
		if rows = append(rows, row); len(rows) < importBatch {
			return nil
		}
		return flush()
	})
	if err != nil {
		return out, err
	}
	return out, flush()
}

// checkImport looks through a file before anything of it is stored: a list, whole, and
// not too long.
func checkImport(plain []byte) error {
	n := 0
	return eachImported(plain, func([]byte) error {
		if n++; n > maxImport {
			return ErrExportTooCostly
		}
		return nil
	})
}

// eachImported gives the entries of a file. They are valid until the next one.
func eachImported(plain []byte, each func(raw []byte) error) error {
	dec := jsontext.NewDecoder(bytes.NewReader(plain))
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != jsontext.KindBeginArray {
		return ErrNotAnExport
	}
	for dec.PeekKind() != jsontext.KindEndArray {
		raw, err := dec.ReadValue()
		if err != nil {
			return ErrNotAnExport
		}
		if err := each(raw); err != nil {
			return err
		}
	}
	_, err := dec.ReadToken()
	if _, end := dec.ReadToken(); err != nil || !errors.Is(end, io.EOF) {
		return ErrNotAnExport
	}
	return nil
}

// importedSession reads one entry of a file.
func importedSession(raw []byte) (store.InboundSession, error) {
	entry, err := parseObject(raw)
	if err != nil {
		return store.InboundSession{}, err
	}
	room, _ := entry.text("room_id")
	session, _ := entry.text("session_id")
	if room == "" || session == "" || len(room) > maxIDLength || len(session) > maxIDLength {
		return store.InboundSession{}, fmt.Errorf("%w: an exported key", errMalformed)
	}
	ref := store.SessionRef{RoomID: id.RoomID(room), SessionID: id.SessionID(session)}
	return keptSession(ref, raw, store.SourceImport, false)
}
