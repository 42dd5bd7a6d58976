package e2ee

import (
	"context"
	"fmt"
	"io"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/keyfile"
	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/strictjson"
)

const (
	// exportRounds is the number of PBKDF2 rounds that clients use today; the spec asks for
	// at least 100,000.
	exportRounds = 500_000
	// importBatch is how many keys are stored at a time, and importBytes their total size.
	importBatch = 250
	importBytes = 1 << 20
)

// Reasons why a file is not imported.
var (
	// ErrNotAnExport means that something is no file of exported keys.
	ErrNotAnExport = keyfile.ErrNotAnExport
	// ErrExportTooCostly means that a file asks for more work than any client's does.
	ErrExportTooCostly = keyfile.ErrTooCostly
	// ErrWrongPassphrase means that a passphrase does not open a file, or the file is damaged.
	ErrWrongPassphrase = keyfile.ErrWrongPassphrase
)

// Imported is the result of an import.
type Imported struct {
	Total    int `json:"total"`
	Imported int `json:"imported"` // not known before
	Refused  int `json:"refused"`  // malformed
}

// ExportKeys writes all room keys of the device in the standard file format. If the export
// cannot begin, nothing is written.
func (d *Device) ExportKeys(ctx context.Context, passphrase secret.String, w io.Writer) error {
	return d.exportKeys(ctx, passphrase, exportRounds, w)
}

func (d *Device) exportKeys(ctx context.Context, passphrase secret.String, rounds uint32, w io.Writer) error {
	if d.core.Mode != core.ModeProxied {
		return core.ErrNotProxied
	}
	out, err := keyfile.NewWriter(passphrase, rounds, w)
	if err != nil {
		return err
	}
	first := true
	for row, err := range d.core.Env.Store.AllInboundSessions(ctx, d.acct.Row, d.core.RowID) {
		if err != nil {
			return fmt.Errorf("load room keys: %w", err)
		}
		entry, _, err := megolm.Data(&row)
		if err != nil {
			return err
		}
		before := byte(',')
		if first {
			before, first = '[', false
		}
		entry = entry.Set("room_id", strictjson.Quote(row.RoomID.String())).Set("session_id", strictjson.Quote(row.SessionID.String()))
		if err := out.Write(append([]byte{before}, entry.Encode()...)); err != nil {
			return err
		}
	}
	end := []byte("]")
	if first {
		end = []byte("[]")
	}
	return out.End(end)
}
