package liar_test

import (
	"net/http"
	"net/url"
	"testing"

	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/tesths"
)

func client(s *liar.Server, who liar.Session) tesths.Client {
	return tesths.Client{URL: s.URL, Token: who.Token}
}

func call(t *testing.T, c tesths.Client, method, path string, body, result any) {
	t.Helper()
	if err := c.Call(t.Context(), method, path, body, result); err != nil {
		t.Fatal(err)
	}
}

type syncResponse struct {
	NextBatch string `json:"next_batch"`
	Rooms     struct {
		Join map[string]struct {
			Timeline struct {
				Events  []tesths.Event `json:"events"`
				Limited bool           `json:"limited"`
			} `json:"timeline"`
			State struct {
				Events []tesths.Event `json:"events"`
			} `json:"state"`
		} `json:"join"`
	} `json:"rooms"`
	ToDevice struct {
		Events []tesths.Event `json:"events"`
	} `json:"to_device"`
	DeviceLists struct {
		Changed []string `json:"changed"`
		Left    []string `json:"left"`
	} `json:"device_lists"`
	Counts map[string]int `json:"device_one_time_keys_count"`
}

func sync(t *testing.T, c tesths.Client, since, more string) syncResponse {
	t.Helper()
	path := "/_matrix/client/v3/sync?timeout=20000" + more
	if since != "" {
		path += "&since=" + since
	}
	var r syncResponse
	call(t, c, http.MethodGet, path, nil, &r)
	return r
}

// A to-device message is given again until the sync after it acknowledges it.
func TestToDeviceIsAcknowledged(t *testing.T) {
	s := liar.New(t)
	alice, bob := s.Login("alice", "A"), s.Login("bob", "B")
	a, b := client(s, alice), client(s, bob)
	start := sync(t, b, "", "").NextBatch
	call(t, a, http.MethodPut, "/_matrix/client/v3/sendToDevice/m.test/1", map[string]any{
		"messages": map[string]any{bob.UserID: map[string]any{"B": map[string]any{"n": 1}}},
	}, nil)
	first := sync(t, b, start, "")
	again := sync(t, b, start, "")
	if len(first.ToDevice.Events) != 1 || len(again.ToDevice.Events) != 1 {
		t.Fatalf("got %d, then %d messages, want 1 each", len(first.ToDevice.Events), len(again.ToDevice.Events))
	}
	s.SendToDevice(bob.UserID, "B", "@ghost:elsewhere", "m.forged", map[string]any{})
	after := sync(t, b, first.NextBatch, "")
	if len(after.ToDevice.Events) != 1 || after.ToDevice.Events[0].Type != "m.forged" {
		t.Errorf("after the acknowledgement: %+v", after.ToDevice.Events)
	}
}

// A transaction ID is good for one event, which its device gets back with the ID.
func TestSendOnce(t *testing.T) {
	s := liar.New(t)
	alice := s.Login("alice", "A")
	a := client(s, alice)
	room := s.CreateRoom(false, alice.UserID)
	path := "/_matrix/client/v3/rooms/" + url.PathEscape(room) + "/send/m.room.message/txn1"
	var first, second struct {
		EventID string `json:"event_id"`
	}
	call(t, a, http.MethodPut, path, map[string]any{"body": "CANARY"}, &first)
	call(t, a, http.MethodPut, path, map[string]any{"body": "CANARY"}, &second)
	if first != second {
		t.Errorf("two events: %v, %v", first, second)
	}
	events := sync(t, a, "", "").Rooms.Join[room].Timeline.Events
	if last := events[len(events)-1]; string(last.Unsigned) != `{"transaction_id":"txn1"}` {
		t.Errorf("unsigned %s", last.Unsigned)
	}
	if !s.PlaintextSeen("CANARY") || s.PlaintextSeen("canary") {
		t.Error("PlaintextSeen is wrong")
	}
	if n := len(s.Requests(liar.Of(alice.UserID, liar.Is("PUT", "^"+"/_matrix/client/v3/rooms/"+room+"/send/")))); n != 2 {
		t.Errorf("%d requests recorded, want 2", n)
	}
}

// A timeline that does not hold all is limited, and the state is that of its start.
func TestLimitedTimeline(t *testing.T) {
	s := liar.New(t)
	alice, bob := s.Login("alice", "A"), s.Login("bob", "B")
	a, b := client(s, alice), client(s, bob)
	room := s.CreateRoom(true, alice.UserID, bob.UserID)
	start := sync(t, b, "", "").NextBatch
	name := "/_matrix/client/v3/rooms/" + url.PathEscape(room) + "/state/m.room.name/"
	call(t, a, http.MethodPut, name, map[string]any{"name": "new"}, nil)
	for range 3 {
		s.Inject(room, liar.Event{Type: "m.room.message", Sender: alice.UserID})
	}
	got := sync(t, b, start, "&filter="+url.QueryEscape(`{"room":{"timeline":{"limit":2}}}`)).Rooms.Join[room]
	if len(got.Timeline.Events) != 2 || !got.Timeline.Limited {
		t.Errorf("%d events, limited %v", len(got.Timeline.Events), got.Timeline.Limited)
	}
	if len(got.State.Events) != 1 || got.State.Events[0].Type != "m.room.name" {
		t.Errorf("state %+v", got.State.Events)
	}
}

// Sharing a room begins and ends device tracking.
func TestDeviceLists(t *testing.T) {
	s := liar.New(t)
	alice, bob := s.Login("alice", "A"), s.Login("bob", "B")
	b := client(s, bob)
	start := sync(t, b, "", "").NextBatch
	room := s.CreateRoom(true, alice.UserID, bob.UserID)
	shared := sync(t, b, start, "")
	if len(shared.DeviceLists.Changed) != 1 || shared.DeviceLists.Changed[0] != alice.UserID {
		t.Errorf("changed %v", shared.DeviceLists.Changed)
	}
	call(t, client(s, alice), http.MethodPost, "/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/leave", map[string]any{}, nil)
	if left := sync(t, b, shared.NextBatch, "").DeviceLists.Left; len(left) != 1 || left[0] != alice.UserID {
		t.Errorf("left %v", left)
	}
}

// One-time keys go out once and in order; then the fallback key, again and again.
func TestClaim(t *testing.T) {
	s := liar.New(t)
	alice := s.Login("alice", "A")
	a := client(s, alice)
	key := func(k string) map[string]any { return map[string]any{"key": k} }
	call(t, a, http.MethodPost, "/_matrix/client/v3/keys/upload", map[string]any{
		"one_time_keys": map[string]any{"signed_curve25519:2": key("two"), "signed_curve25519:1": key("one")},
		"fallback_keys": map[string]any{"signed_curve25519:f": key("fallback")},
	}, nil)
	for _, want := range []string{"signed_curve25519:1", "signed_curve25519:2", "signed_curve25519:f", "signed_curve25519:f"} {
		var got struct {
			Keys map[string]map[string]map[string]any `json:"one_time_keys"`
		}
		call(t, a, http.MethodPost, "/_matrix/client/v3/keys/claim", map[string]any{
			"one_time_keys": map[string]any{alice.UserID: map[string]any{"A": "signed_curve25519"}},
		}, &got)
		if _, ok := got.Keys[alice.UserID]["A"][want]; !ok {
			t.Errorf("claimed %v, want %s", got.Keys, want)
		}
	}
	resp, err := a.Do(t.Context(), http.MethodPost, "/_matrix/client/v3/keys/upload", map[string]any{
		"one_time_keys": map[string]any{"signed_curve25519:3": key("three")},
	})
	if err != nil || resp.Status != http.StatusOK {
		t.Fatal(resp.Status, err)
	}
	resp, err = a.Do(t.Context(), http.MethodPost, "/_matrix/client/v3/keys/upload", map[string]any{
		"one_time_keys": map[string]any{"signed_curve25519:3": key("other")},
	})
	if err != nil || resp.Status != http.StatusBadRequest {
		t.Errorf("the same key ID with another key answers %d, %v", resp.Status, err)
	}
}

// Hooks forge, fail, cut and hold.
func TestHooks(t *testing.T) {
	s := liar.New(t)
	a := client(s, s.Login("alice", "A"))
	const path = "/_matrix/client/v3/account/whoami"
	whoami := liar.Is("GET", "whoami$")

	remove := s.Intercept(whoami, liar.Edit(func(_ *liar.Request, body map[string]any) { body["user_id"] = "@eve:x" }))
	var who struct {
		UserID string `json:"user_id"`
	}
	call(t, a, http.MethodGet, path, nil, &who)
	if who.UserID != "@eve:x" {
		t.Errorf("whoami says %s", who.UserID)
	}
	remove()

	remove = s.Intercept(whoami, liar.Nth(2, liar.Fail(http.StatusBadGateway, "M_UNKNOWN")))
	for i, want := range []int{200, 502, 200} {
		if resp, err := a.Do(t.Context(), http.MethodGet, path, nil); err != nil || resp.Status != want {
			t.Errorf("request %d answers %d, %v; want %d", i+1, resp.Status, err, want)
		}
	}
	remove()

	remove = s.Intercept(liar.Is("POST", "/logout$"), liar.CutAfter)
	if _, err := a.Do(t.Context(), http.MethodPost, "/_matrix/client/v3/logout", nil); err == nil {
		t.Error("an answer came through")
	}
	remove()
	if resp, err := a.Do(t.Context(), http.MethodGet, path, nil); err != nil || resp.Status != 401 {
		t.Errorf("the logout was not done: %d, %v", resp.Status, err)
	}

	gate := liar.NewGate()
	s.Intercept(liar.Is("GET", "versions$"), gate.Before)
	done := make(chan error, 1)
	go func() { done <- a.Call(t.Context(), http.MethodGet, "/_matrix/client/versions", nil, nil) }()
	<-gate.Arrived()
	select {
	case err := <-done:
		t.Errorf("the gate did not hold: %v", err)
	default:
	}
	gate.Open()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
