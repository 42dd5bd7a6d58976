package interceptors_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors"
)

var updateGolden = flag.Bool("update-sync", false, "write the golden files of testdata/sync anew")

// strictJSON reports whether something is one JSON value that everybody reads alike.
func strictJSON(raw []byte) error {
	d := jsontext.NewDecoder(bytes.NewReader(raw))
	if _, err := d.ReadValue(); err != nil {
		return err
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// goldenCase is a file of testdata/sync: what the homeserver answers, what the engine
// says, and what the client gets and the engine was told.
type goldenCase struct {
	filter, body   []byte
	extras         e2ee.SyncExtras
	encrypted      []string
	showEncryption bool
}

func readGolden(t *testing.T, a *txtar.Archive) goldenCase {
	t.Helper()
	var c goldenCase
	for _, f := range a.Files {
		switch f.Name {
		case "filter":
			c.filter = bytes.TrimSpace(f.Data)
		case "body":
			c.body = f.Data
		case "extras":
			if err := json.Unmarshal(f.Data, &c.extras); err != nil {
				t.Fatal(err)
			}
		case "encrypted":
			c.encrypted = strings.Fields(string(f.Data))
		case "options":
			c.showEncryption = strings.Contains(string(f.Data), "show_encryption_state")
		}
	}
	return c
}

func pretty(t *testing.T, raw []byte) string {
	t.Helper()
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", " "); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	return strings.TrimSpace(out.String()) + "\n"
}

func TestSyncGolden(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("testdata/sync/*.txtar")
	if err != nil || len(names) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			c := readGolden(t, archive)
			w := newSyncWorld(t, "", interceptors.SyncOptions{ShowEncryptionState: c.showEncryption})
			w.up.body = func() io.Reader { return iotest.HalfReader(bytes.NewReader(c.body)) }
			w.dev.extras = c.extras
			w.dev.encrypted = func(room id.RoomID) bool {
				return strings.Contains(strings.Join(c.encrypted, " ")+" ", string(room)+" ")
			}
			query := url.Values{"since": {"s1"}}
			if len(c.filter) > 0 {
				query.Set("filter", string(c.filter))
			}
			out, err := w.sync(t, query.Encode())
			if err != nil {
				t.Fatal(err)
			}
			update := w.dev.committed[0]
			update.Unread = e2ee.UnreadUpdate{} // see TestSyncUnread
			got := map[string]string{
				"want":   pretty(t, out.Body.Bytes()),
				"update": pretty(t, bytes.Replace(encode(update), []byte(`,"Unread":{"Rooms":null,"Rules":null}`), nil, 1)),
			}
			for i := range archive.Files {
				f := &archive.Files[i]
				text, ok := got[f.Name]
				if !ok {
					continue
				}
				if *updateGolden {
					f.Data = []byte(text)
				} else if diff := cmp.Diff(string(f.Data), text); diff != "" {
					t.Errorf("%s (-want +got):\n%s", f.Name, diff)
				}
			}
			if *updateGolden {
				if err := os.WriteFile(name, txtar.Format(archive), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
