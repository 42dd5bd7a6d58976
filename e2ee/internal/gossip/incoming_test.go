package gossip

import (
	"encoding/json"
	"fmt"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/internal/strictjson"
)

// asking returns the content of a request, or of its cancellation, for a secret or a room
// key: each reads what it knows.
func asking(action, device, request, algorithm, secret string) json.RawMessage {
	return strictjson.Object{
		{Name: "action", Value: strictjson.Quote(action)}, {Name: "requesting_device_id", Value: strictjson.Quote(device)},
		{Name: "request_id", Value: strictjson.Quote(request)}, {Name: "name", Value: strictjson.Quote(secret)},
		{Name: "body", Value: strictjson.Object{
			{Name: "algorithm", Value: strictjson.Quote(algorithm)}, {Name: "room_id", Value: strictjson.Quote("!r:x")}, {Name: "session_id", Value: strictjson.Quote("session")},
		}.Encode()},
	}.Encode()
}

// Anybody can send a request, which comes in clear: only those of the user's other devices,
// for what devices share, wait for an answer (requirements 11.4, 15.4). In every row but the
// first one thing is not as it must be.
func TestWhoseRequestsWait(t *testing.T) {
	t.Parallel()
	const megolm = string(id.AlgorithmMegolmV1)
	for name, tc := range map[string]struct {
		sender       id.UserID
		content      json.RawMessage
		key, secrets bool
	}{
		"of another device of the user": {"@me:x", asking("request", "OTHER", "r", megolm, identity.SecretMaster), true, true},
		"of another user":               {"@mallory:x", asking("request", "OTHER", "r", megolm, identity.SecretMaster), false, false},
		"our own":                       {"@me:x", asking("request", "MINE", "r", megolm, identity.SecretMaster), false, false},
		"without a device":              {"@me:x", asking("request", "", "r", megolm, identity.SecretMaster), false, false},
		"without an ID":                 {"@me:x", asking("request", "OTHER", "", megolm, identity.SecretMaster), false, false},
		"with an endless ID":            {"@me:x", asking("request", "OTHER", fmt.Sprintf("%01000d", 1), megolm, identity.SecretMaster), false, false},
		"for something else":            {"@me:x", asking("request", "OTHER", "r", "m.olm.v1.curve25519-aes-sha2", identity.SecretStorageKey), false, false},
		"of no known action":            {"@me:x", asking("give", "OTHER", "r", megolm, identity.SecretMaster), false, false},
		"unreadable":                    {"@me:x", json.RawMessage(`[]`), false, false},
	} {
		x := exchangeOf(core.Self{ID: "MINE"}, &core.Env{Now: nowAt(1000)})
		in := x.Receive()
		in.KeyRequest(tc.sender, tc.content)
		in.SecretRequest(tc.sender, tc.content)
		staged := in.changeRequests()
		if len(staged.Keys) > 0 != tc.key || len(staged.Secrets) > 0 != tc.secrets {
			t.Errorf("%s: %+v", name, staged)
		}
		if len(x.requests.Keys)+len(x.requests.Secrets) > 0 {
			t.Errorf("%s: it is in memory and was not stored", name)
		}
		cancel := asking("request_cancellation", "OTHER", "r", megolm, identity.SecretMaster)
		in.KeyRequest("@mallory:x", cancel)
		in.SecretRequest("@mallory:x", cancel)
		if len(staged.Keys) > 0 != tc.key || len(staged.Secrets) > 0 != tc.secrets {
			t.Errorf("%s: another user has cancelled it", name)
		}
		in.KeyRequest("@me:x", cancel)
		in.SecretRequest("@me:x", cancel)
		if len(staged.Keys)+len(staged.Secrets) > 0 {
			t.Errorf("%s: it waits although it was cancelled", name)
		}
	}
}

// Attack N5: a flood of requests takes a bounded place, and the same request one.
func TestRequestsAreBounded(t *testing.T) {
	t.Parallel()
	in := exchangeOf(core.Self{ID: "MINE"}, &core.Env{Now: nowAt(1000)}).Receive()
	for i := range 2 * maxKeyRequests {
		for range 2 {
			content := asking("request", "OTHER", fmt.Sprint(i), string(id.AlgorithmMegolmV1), identity.SecretMaster)
			in.KeyRequest("@me:x", content)
			in.SecretRequest("@me:x", content)
		}
	}
	if keys, secrets := len(in.requests.Keys), len(in.requests.Secrets); keys != maxKeyRequests || secrets != maxRequests {
		t.Errorf("%d requests for room keys wait and %d for secrets", keys, secrets)
	}
	if in.requests.Keys[0].ID == in.requests.Keys[1].ID || in.requests.Secrets[0].ID == in.requests.Secrets[1].ID {
		t.Error("one request waits twice")
	}
}
