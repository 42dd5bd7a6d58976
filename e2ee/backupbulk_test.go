package e2ee_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"maunium.net/go/mautrix/crypto/goolm/session"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// exportedKeys makes so many room keys of a room as another client would export them.
func exportedKeys(t *testing.T, n int) []map[string]any {
	t.Helper()
	out := make([]map[string]any, n)
	for i := range out {
		made, err := session.NewMegolmOutboundSession()
		if err != nil {
			t.Fatal(err)
		}
		shared, err := made.SessionSharingMessage()
		if err != nil {
			t.Fatal(err)
		}
		in, err := session.NewMegolmInboundSession(shared)
		if err != nil {
			t.Fatal(err)
		}
		exported, err := in.Export(0)
		if err != nil {
			t.Fatal(err)
		}
		out[i] = map[string]any{
			"algorithm": "m.megolm.v1.aes-sha2", "room_id": "!room:liar.test", "session_id": in.ID(), "session_key": string(exported),
			"sender_key": "claimed", "sender_claimed_keys": map[string]any{"ed25519": "claimed"}, "forwarding_curve25519_key_chain": []string{},
		}
	}
	return out
}

var phrase = secret.NewString("pass phrase")

// importOf imports a list, or whatever else it is, as a file.
func importOf(t *testing.T, d *e2ee.Device, list any) (e2ee.Imported, error) {
	t.Helper()
	plain, ok := list.([]byte)
	if !ok {
		var err error
		if plain, err = json.Marshal(list); err != nil {
			t.Fatal(err)
		}
	}
	file, err := e2ee.SealExport(phrase, plain)
	if err != nil {
		t.Fatal(err)
	}
	return d.ImportKeys(t.Context(), phrase, e2ee.KeyFile(file))
}

// uploadedKeys returns the size of every upload that the homeserver took part in.
func uploadedKeys(t *testing.T, hs *liar.Server, user string) (sizes []int) {
	t.Helper()
	for _, r := range hs.Requests(liar.Of(user, liar.Is(http.MethodPut, "room_keys/keys"))) {
		var body struct {
			Rooms map[string]struct {
				Sessions map[string]json.RawMessage `json:"sessions"`
			} `json:"rooms"`
		}
		if err := r.JSON(&body); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, room := range body.Rooms {
			n += len(room.Sessions)
		}
		sizes = append(sizes, n)
	}
	return sizes
}

func metric(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

// Many keys go into the backup in bounded batches. The process ends in the middle: it goes
// on where it stopped, and nothing is uploaded twice. The whole history is restored on
// request, also after the recovery; status and metrics tell how far that is.
func TestBackupInBatches(t *testing.T) {
	t.Parallel()
	const keys, most = 450, 200
	hs := liar.New(t)
	alice := newPerson(t, hs, "alice", "FIRST")
	uploaded := prometheus.NewRegistry()
	alice.rig.opts = func(o *e2ee.Options) { o.Metrics = uploaded }
	alice.restart()
	settle(t, alice.dev)
	put := liar.Of(alice.UserID, liar.Is(http.MethodPut, "room_keys/keys"))
	undo := hs.Intercept(put, liar.Nth(2, liar.Fail(http.StatusInternalServerError, "M_UNKNOWN")))
	imported := liar.NewGate() // the first upload begins while the rest is imported
	hs.Intercept(put, liar.Nth(1, imported.Before))
	if got, err := importOf(t, alice.dev, exportedKeys(t, keys)); err != nil || got.Imported != keys {
		t.Fatalf("the import: %+v, %v", got, err)
	}
	imported.Open()
	await(t, "the second batch is not tried", func() bool { return len(uploadedKeys(t, hs, alice.UserID)) == 2 })
	if got := metric(t, uploaded, "e2ee_proxy_backup_uploaded_keys_total"); got != most {
		t.Errorf("%v keys are counted as uploaded after one batch", got)
	}
	if s := status(t, alice.dev); s.Backup.Count != most || s.Backup.Pending != keys-most {
		t.Errorf("status in the middle: %+v", s.Backup)
	}
	undo()
	alice.rig.opts = nil
	alice.restart()
	backedUp(t, hs, alice.UserID, keys)
	await(t, "some still wait", func() bool { return status(t, alice.dev).Backup.Pending == 0 })
	total := 0
	for _, n := range uploadedKeys(t, hs, alice.UserID) {
		if total += n; n > most {
			t.Errorf("a batch of %d keys", n)
		}
	}
	if total != keys+most { // the second batch went out twice, because it failed
		t.Errorf("%d keys were uploaded in all", total)
	}

	restored := prometheus.NewRegistry()
	other := &person{t: t, hs: hs, Session: hs.Login("alice", "OTHER")}
	other.rig = newRig(t, hs, func(o *e2ee.Options) { o.Metrics = restored })
	other.dev = other.rig.device(other.Session)
	settle(t, other.dev)
	wantErr(t, "a restore before the recovery", other.dev.RestoreHistory(t.Context()), e2ee.ErrNoBackup)
	if err := other.dev.Recover(t.Context(), e2ee.Recovery{Key: recoveryKey(t, alice.dev)}); err != nil {
		t.Fatal(err)
	}
	if s := status(t, other.dev); s.Backup.Restore != nil {
		t.Errorf("a restore that nobody asked for: %+v", s.Backup.Restore)
	}
	gate := liar.NewGate()
	hs.Intercept(liar.Of(other.UserID, liar.Is(http.MethodGet, "room_keys/keys$")), gate.Before)
	if err := other.dev.RestoreHistory(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := status(t, other.dev).Backup.Restore; r == nil || r.State != "running" {
		t.Errorf("the restore that was asked for: %+v", r)
	}
	gate.Open()
	await(t, "the restore does not end", func() bool { return status(t, other.dev).Backup.Restore.State == "done" })
	if r := status(t, other.dev).Backup.Restore; r.Total != keys || r.Done != keys || r.Restored != keys || r.Refused != 0 {
		t.Errorf("the restore: %+v", r)
	}
	if got := metric(t, restored, "e2ee_proxy_backup_restored_keys_total"); got != keys {
		t.Errorf("%v keys are counted as restored", got)
	}
	await(t, "the keys are uploaded again", func() bool { return status(t, other.dev).Backup.Pending == 0 })
	if again := uploadedKeys(t, hs, alice.UserID); len(again) != 4 {
		t.Errorf("uploads: %v", again)
	}
}

// A file is a list of keys, whole, and of a length that a client may have; else nothing of
// it is stored. What is in it but is no key is counted, and does not stop the rest.
func TestImportIsAllOrNothing(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	alice := newPerson(t, hs, "alice", "FIRST")
	good := exportedKeys(t, 2)
	raw, err := json.Marshal(good)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		list []byte
		want error
	}{
		"no list":        {[]byte(`{"session_id":"x"}`), e2ee.ErrNotAnExport},
		"a torn list":    {raw[:len(raw)-3], e2ee.ErrNotAnExport},
		"no end":         {raw[:len(raw)-1], e2ee.ErrNotAnExport},
		"more behind it": {append(bytes.Clone(raw), '[', ']'), e2ee.ErrNotAnExport},
		"nothing":        {nil, e2ee.ErrNotAnExport},
		"a million keys": {[]byte("[" + strings.Repeat("{},", 1_000_000) + "{}]"), e2ee.ErrExportTooCostly},
		"a deep value":   {[]byte("[" + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + "]"), e2ee.ErrNotAnExport},
	} {
		_, err := importOf(t, alice.dev, tt.list)
		wantErr(t, name, err, tt.want)
	}
	if kept, err := alice.dev.InboundSessions(t.Context()); err != nil || len(kept) != 0 {
		t.Fatalf("%d keys were kept, %v", len(kept), err)
	}
	other := exportedKeys(t, 1)[0]
	other["session_id"] = good[0]["session_id"] // attack A16
	unknown := exportedKeys(t, 1)[0]
	unknown["algorithm"] = "com.example"
	got, err := importOf(t, alice.dev, []any{good[0], "x", map[string]any{}, other, unknown, good[1]})
	if want := (e2ee.Imported{Total: 6, Imported: 2, Refused: 4}); err != nil || got != want {
		t.Errorf("the import: %+v, %v", got, err)
	}
	if got, err = importOf(t, alice.dev, good); err != nil || got.Imported != 0 || got.Total != 2 {
		t.Errorf("the same again: %+v, %v", got, err)
	}
	kept, err := alice.dev.InboundSessions(t.Context())
	if err != nil || len(kept) != 2 || kept[0].Source != "import" {
		t.Errorf("%d keys, %v", len(kept), err)
	}
}
