package e2ee

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/keyfile"
	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
)

// A file is imported in three passes, so that it need not be in memory: the first checks
// that it is authentic, the second that it is a list of keys and not too long, and only the
// third stores keys.

// ImportKeys imports room keys from a file in the standard format; every call of open
// returns a new reader of it. The keys prove nothing about senders: messages decrypted with
// them are shown grey, source import.
func (d *Device) ImportKeys(ctx context.Context, passphrase secret.String, open func() io.Reader) (Imported, error) {
	if d.core.Mode != core.ModeProxied {
		return Imported{}, core.ErrNotProxied
	}
	file, err := keyfile.Open(passphrase, open)
	if err != nil {
		return Imported{}, err
	}
	defer d.kick() // imported keys go into the backup
	if err := file.Check(); err != nil {
		return Imported{}, err
	}
	var out Imported
	var rows []store.InboundSession
	held := 0
	flush := func() error {
		kept, err := d.inbound.KeepKept(ctx, rows)
		out.Imported += kept
		rows, held = rows[:0], 0
		return err
	}
	err = file.Each(func(raw []byte) error {
		out.Total++
		row, err := importedSession(bytes.Clone(raw))
		if err != nil {
			out.Refused++
			return nil
		}
		rows = append(rows, row)
		if held += len(raw); len(rows) < importBatch && held < importBytes {
			return nil
		}
		return flush()
	})
	if err != nil {
		return out, err
	}
	return out, flush()
}

// importedSession parses one entry of a file.
func importedSession(raw []byte) (store.InboundSession, error) {
	entry, err := strictjson.Parse(raw)
	if err != nil {
		return store.InboundSession{}, err
	}
	room, _ := entry.Text("room_id")
	session, _ := entry.Text("session_id")
	if room == "" || session == "" || len(room) > wire.MaxIDLength || len(session) > wire.MaxIDLength {
		return store.InboundSession{}, fmt.Errorf("%w: an exported key", strictjson.ErrMalformed)
	}
	ref := store.SessionRef{RoomID: id.RoomID(room), SessionID: id.SessionID(session)}
	return megolm.FromData(ref, raw, store.SourceImport, false)
}
