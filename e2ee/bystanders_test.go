package e2ee_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// A device that does no cryptography is no device that its owner has not confirmed. That of
// a peer and one of the user's own, as some homeservers list them and as MSC4350 has them,
// change nothing: no warning, no problem, no notice, no other session, and nobody is held
// up (requirements 1.19, 1.22).
func TestDevicesWithoutKeysChangeNothing(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	first := st.send(room, "before")
	before := status(t, st.dev)
	st.hs.Intercept(liar.Is(http.MethodPost, "keys/query"), liar.Edit(func(_ *liar.Request, body map[string]any) {
		all, _ := body["device_keys"].(map[string]any)
		for user, devices := range all {
			of, _ := devices.(map[string]any)
			of["LEGACY"] = map[string]any{"user_id": user, "device_id": "LEGACY", "algorithms": []string{}, "keys": map[string]any{}}
			of["GHOST"] = map[string]any{
				"user_id": user, "device_id": "GHOST", "algorithms": []string{}, "keys": map[string]any{},
				"impersonator": map[string]any{"user_id": "@bridge:liar.test", "device_id": "BRIDGE"},
			}
		}
	}))
	st.hs.ChangeDevices(st.alice.UserID)
	st.hs.ChangeDevices(bob.UserID)
	st.told()
	st.dev.Maintain(t.Context())
	if h := st.send(room, "after"); h.session != first.session {
		t.Error("there is a new session for it")
	}
	after := status(t, st.dev)
	if len(after.OtherDevices) != len(before.OtherDevices) || len(after.Problems) != len(before.Problems) || len(after.Warnings) != 0 {
		t.Errorf("status: %+v, problems %+v, warnings %+v", after.OtherDevices, after.Problems, after.Warnings)
	}
	for _, user := range []string{st.alice.UserID, bob.UserID} {
		known, err := st.dev.User(t.Context(), id.UserID(user))
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range known.Devices {
			if d.DeviceID == "LEGACY" || d.DeviceID == "GHOST" {
				t.Errorf("%s has a device %s", user, d.DeviceID)
			}
		}
	}
	for _, r := range st.hs.Requests(liar.Of(st.alice.UserID, liar.Is(http.MethodPut, "sendToDevice"))) {
		if strings.Contains(string(r.Body), "LEGACY") || strings.Contains(string(r.Body), "GHOST") {
			t.Errorf("%s was written to: %s", r.Path, r.Body)
		}
	}
}

// As long as no person says so, a request to be verified, the start of a verification and all
// that follows, in the clear and over Olm, verify nobody. They are not shown to the client, whose
// device is not meant, and all that may go out is that they are not expected (requirement 13.19).
func TestVerificationIsNeverAnsweredAlone(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.send(room, "hello")
	sent := func() int {
		return len(st.hs.Requests(liar.Of(st.alice.UserID, liar.Is("", "(sendToDevice/m.key.verification.(ready|start|accept|key|mac|done)|signatures/upload)"))))
	}
	before := sent()
	for _, step := range []string{"request", "ready", "start", "accept", "key", "mac", "done", "cancel"} {
		content := map[string]any{
			"transaction_id": "t", "from_device": bob.DeviceID, "method": "m.sas.v1", "methods": []string{"m.sas.v1"}, "timestamp": st.now().UnixMilli(),
			"key_agreement_protocols": []string{"curve25519-hkdf-sha256"}, "hashes": []string{"sha256"},
			"message_authentication_codes": []string{"hkdf-hmac-sha256.v2"}, "short_authentication_string": []string{"decimal"},
		}
		st.hs.SendToDevice(st.alice.UserID, st.alice.DeviceID, bob.UserID, "m.key.verification."+step, content)
		bob.sendOlm(st.target(), bob.envelope(st.target(), "m.key.verification."+step, content))
	}
	in, err := st.dev.BeginSync(t.Context(), st.since)
	if err != nil {
		t.Fatal(err)
	}
	var resp clientResponse
	call(t, st.hs, st.alice, http.MethodGet, "sync?timeout=0", nil, &resp)
	extras, err := in.Commit(t.Context(), resp.update(""))
	in.End()
	if err != nil {
		t.Fatal(err)
	}
	st.dev.Maintain(t.Context())
	if len(extras.ToDevice) > 0 {
		t.Errorf("the client is shown %s", extras.ToDevice)
	}
	if after := sent(); after != before {
		t.Errorf("%d answers went out", after-before)
	}
	if known, err := st.dev.User(t.Context(), id.UserID(bob.UserID)); err != nil || known.State != "pinned" {
		t.Errorf("bob is %s: %v", known.State, err)
	}
}

// A file of exported keys has every field that the format names, and the flag whether a
// key may be passed on (requirements 16.10, 17.4); what others had written beside an
// imported key is still there.
func TestExportHoldsEveryField(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	alice, bob := newPerson(t, hs, "alice", "ALICE"), newPerson(t, hs, "bob", "BOB")
	room := alice.newRoom(bob)
	alice.send(room, "hello")
	bob.awaitRead(room, "hello")
	imported := exportedKeys(t, 2)
	imported[0]["shared_history"], imported[0]["org.example.x"] = true, "y"
	if got, err := importOf(t, bob.dev, imported); err != nil || got.Imported != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	var file bytes.Buffer
	if err := bob.dev.ExportKeys(t.Context(), phrase, &file); err != nil {
		t.Fatal(err)
	}
	plain, err := e2ee.OpenExport(phrase, file.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	var list []map[string]any
	if err := json.Unmarshal(plain, &list); err != nil {
		t.Fatal(err)
	}
	keys := status(t, alice.dev).Keys
	found := make(map[string]map[string]any)
	for _, one := range list {
		session, _ := one["session_id"].(string)
		found[session] = maps.Clone(one)
		for _, name := range []string{
			"algorithm", "forwarding_curve25519_key_chain", "room_id", "sender_claimed_keys", "sender_key", "session_id", "session_key", "shared_history",
		} {
			if one[name] == nil {
				t.Errorf("%s has no %s", session, name)
			}
		}
		if one["room_id"] == room {
			claimed, _ := one["sender_claimed_keys"].(map[string]any)
			if one["sender_key"] != keys.Curve25519.String() || claimed["ed25519"] != keys.Ed25519.String() || one["shared_history"] != true {
				t.Errorf("the key of the message: %v", one)
			}
		}
	}
	if len(list) != 3 {
		t.Errorf("%d keys", len(list))
	}
	for i, want := range []any{true, false} {
		session, _ := imported[i]["session_id"].(id.SessionID)
		one := found[session.String()]
		if one["shared_history"] != want || one["sender_key"] != "claimed" || (i == 0) != (one["org.example.x"] == "y") {
			t.Errorf("an imported key: %v", one)
		}
	}
}
