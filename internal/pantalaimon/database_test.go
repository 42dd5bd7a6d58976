package pantalaimon_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/internal/pantalaimon"
)

func open(t *testing.T) *pantalaimon.Database {
	t.Helper()
	db, err := pantalaimon.Open(t.Context(), "testdata")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// The database that pantalaimon's own code has written is read: of one section, and no
// other.
func TestDevicesOfASection(t *testing.T) {
	t.Parallel()
	db := open(t)
	var got []string
	all, err := db.Devices(t.Context(), "local")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		name := d.UserID + " " + d.DeviceID + " " + d.Token.Reveal()
		if d.Published {
			name += " published"
		}
		got = append(got, name)
		if len(d.Account) < 100 {
			t.Errorf("%s: its account is %d bytes long", name, len(d.Account))
		}
	}
	want := []string{
		"@bot:hs.example PANTALAIMON token-of-pantalaimon published", "@bot:hs.example BEFORE  published",
		"@keyring:hs.example RING ", "@strange:hs.example STRANGE token-of-strange",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if other, err := db.Devices(t.Context(), "elsewhere"); err != nil || len(other) != 1 || other[0].UserID != "@other:elsewhere.example" {
		t.Errorf("%+v, %v", other, err)
	}
	if none, err := db.Devices(t.Context(), "nobody"); err != nil || len(none) != 0 {
		t.Errorf("%+v, %v", none, err)
	}
}

// A device's sessions, room keys and rooms.
func TestKeysOfADevice(t *testing.T) {
	t.Parallel()
	db := open(t)
	all, err := db.Devices(t.Context(), "local")
	if err != nil {
		t.Fatal(err)
	}
	sessions, err := db.OlmSessions(t.Context(), all[0])
	if err != nil || len(sessions) != 1 || len(sessions[0].ID) != 43 || len(sessions[0].SenderKey) != 43 || time.Since(sessions[0].Created) < 0 || sessions[0].Used.IsZero() {
		t.Errorf("%+v, %v", sessions, err)
	}
	rooms, err := db.EncryptedRooms(t.Context(), all[0])
	if diff := cmp.Diff([]string{"!encrypted:hs.example"}, rooms); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	counts := map[string]int{}
	for _, d := range all {
		for k, err := range db.RoomKeys(t.Context(), d) {
			if err != nil {
				t.Fatal(err)
			}
			counts[d.DeviceID]++
			counts["forwarded"] += len(k.ForwardedBy)
			if k.RoomID != "!encrypted:hs.example" || len(k.Pickle) == 0 {
				t.Errorf("%+v", k)
			}
		}
	}
	if diff := cmp.Diff(map[string]int{"PANTALAIMON": 3, "BEFORE": 1, "forwarded": 1}, counts); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What is no database of pantalaimon is no database of it; and nothing is made of it.
func TestOpenOfSomethingElse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := pantalaimon.Open(t.Context(), dir); !errors.Is(err, pantalaimon.ErrNoDatabase) {
		t.Errorf("nothing: %v", err)
	}
	path := filepath.Join(dir, pantalaimon.DatabaseName)
	for name, content := range map[string]string{"empty": "", "text": "this is what somebody wrote, and no database at all, however long it may be"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := pantalaimon.Open(t.Context(), dir); err == nil {
			t.Errorf("%s: it is opened", name)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != content {
			t.Errorf("%s: it was changed: %v", name, err)
		}
	}
}
