package control

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"unicode/utf8"

	"github.com/go-json-experiment/json"

	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/jsonscan"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/spool"
)

// POST keys/import takes a body of up to 80 MiB, with the text of a key export file as a
// string in it. The body is spooled while it is scanned, and the engine reads the string
// from there as often as it needs to.

// Places in the body of an import.
const (
	importTop = iota + 1
	importPassphrase
	importFile
	importOther
)

// maxPassphrase is the largest passphrase, in bytes.
const maxPassphrase = 64 << 10

func importGraph() *jsonscan.Node {
	top := jsonscan.NewNode().Report(importTop, false)
	top.Down(jsonscan.Key("passphrase")).Report(importPassphrase, true)
	top.Down(jsonscan.Key("keys")).Report(importFile, false)
	top.Down(jsonscan.Any()).Report(importOther, false)
	return top
}

// importBody is the body of an import, read as strictly as every body of the control API.
type importBody struct {
	passphrase secret.String
	// from and to are where the string with the file begins and ends; to is zero without one.
	from, to int64
}

// readImport scans the body of an import into keep.
func readImport(x *exchange.Exchange, keep *spool.Spool) (importBody, error) {
	var body importBody
	seen := make(map[int]int)
	values := 0
	_, err := jsonscan.Scan(exchange.Spooling(x.Request.Body, keep), importGraph(), jsonscan.Options{MaxCapture: maxPassphrase}, func(v *jsonscan.Value) error {
		seen[v.ID]++
		switch v.ID {
		case importTop:
			if v.Kind != '{' {
				return apierr.BadJSON("The request body must be a JSON object.")
			}
			values = v.Count
			return nil
		case importPassphrase:
			if v.Kind == 'n' {
				return nil
			}
			var text string
			if v.Kind != '"' || v.Raw == nil || !utf8.Valid(v.Raw) || json.Unmarshal(v.Raw, &text) != nil {
				return errImportMember
			}
			body.passphrase = secret.NewString(text)
			return nil
		case importFile:
			if v.Kind != '"' && v.Kind != 'n' {
				return errImportMember
			}
			if v.Kind == '"' {
				body.from, body.to = v.Start+1, v.End-1
			}
			return nil
		}
		return errImportMember
	})
	if err != nil {
		return body, importFailure(err)
	}
	if seen[importPassphrase] > 1 || seen[importFile] > 1 || values != seen[importPassphrase]+seen[importFile] {
		return body, importFailure(errImportMember)
	}
	if body.passphrase.IsZero() {
		return body, apierr.MissingParam("passphrase is missing: the file is encrypted with it.")
	}
	if body.to == 0 {
		return body, apierr.MissingParam("keys is missing: the text of the file.")
	}
	return body, nil
}

var errImportMember = errors.New("a member that is not one of an import")

// importFailure returns the client's error for a body that could not be read.
func importFailure(err error) error {
	var syntax *jsonscan.SyntaxError
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return apierr.TooLarge(tooLarge.Limit)
	}
	switch full := exchange.SpoolFailure(err); {
	case full != nil:
		return full
	case errors.As(err, &syntax), errors.Is(err, jsonscan.ErrDepth):
		return apierr.NotJSON(nil)
	case errors.Is(err, errImportMember):
		return apierr.BadJSON("The request body has a member that is unknown, twice there, or of the wrong kind.")
	}
	return err
}

// importKeys handles [ImportKeys].
func (c *api) importKeys(a request) (_ any, err error) {
	keep := c.spools.New(a.Identity.UserID, 0)
	defer func() { err = errors.Join(err, keep.Close()) }()
	body, err := readImport(a.Exchange, keep)
	if err != nil {
		return nil, err
	}
	if err := c.Keys(a.ctx, a.Identity.UserID); err != nil {
		return nil, err
	}
	return a.ImportKeys(a.ctx, body.passphrase, func() io.Reader {
		return &unescaper{from: bufio.NewReaderSize(keep.Section(body.from, body.to), 32<<10)}
	})
}

// unescaper reads the text of a JSON string, known to be valid, from between its quotes.
// What is not ASCII does not belong into a key export; it becomes a byte that is never
// valid in one.
type unescaper struct{ from *bufio.Reader }

func (u *unescaper) Read(p []byte) (int, error) {
	for n := range p {
		c, err := u.from.ReadByte()
		if err == nil && c == '\\' {
			c, err = u.escaped()
		}
		if err != nil {
			if n > 0 && errors.Is(err, io.EOF) {
				return n, nil
			}
			return n, err
		}
		p[n] = c
	}
	return len(p), nil
}

// escaped reads the rest of an escape, behind the backslash.
func (u *unescaper) escaped() (byte, error) {
	c, err := u.from.ReadByte()
	if err != nil {
		return 0, fmt.Errorf("read an escape: %w", io.ErrUnexpectedEOF)
	}
	switch c {
	case 'n':
		return '\n', nil
	case 'r':
		return '\r', nil
	case 't':
		return '\t', nil
	case 'b', 'f':
		return 0, nil
	case 'u':
		var hex [4]byte
		if _, err := io.ReadFull(u.from, hex[:]); err != nil {
			return 0, fmt.Errorf("read an escape: %w", io.ErrUnexpectedEOF)
		}
		code, err := strconv.ParseUint(string(hex[:]), 16, 16)
		if err != nil || code >= utf8.RuneSelf {
			return 0, nil
		}
		return byte(code), nil
	}
	return c, nil
}
