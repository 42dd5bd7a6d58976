package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

const control = "/_e2ee_proxy/v1/"

// Two users with two devices each behind one proxy. Nothing of one user is reachable with a
// token of the other: not the recovery key, not the status, not what the proxy has
// decrypted, neither by a room the other is not in, nor by a room it joined after the
// message was sent.
func TestIsolation(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		alice := element(t, hs, testpeer.NodeHost(t), "alice")
		b, c := newAccount(t, hs, "bob"), newAccount(t, hs, "carol")
		bob := [2]*curl{loginCurl(t, proxy.URL, b, "BOB1"), loginCurl(t, proxy.URL, b, "BOB2")}
		carol := [2]*curl{loginCurl(t, proxy.URL, c, "CAROL1"), loginCurl(t, proxy.URL, c, "CAROL2")}

		room := alice.CreateRoom(testpeer.Room{Encrypted: true, Invite: []string{b.UserID}})
		bob[0].AwaitRoom(room, "invite")
		bob[0].Join(room)
		alice.AwaitMember(room, b.UserID, "join")
		alice.AwaitDevice(b.UserID, "BOB1", true)
		secret := alice.SendText(room, "CANARY for bob")
		bob[0].Await(room, testpeer.Where{"event_id": secret, "body": "CANARY for bob"})

		paths := []string{
			roomPath(room, "event/%s", secret), roomPath(room, "context/%s", secret),
			roomPath(room, "messages?dir=b&limit=50"), roomPath(room, "relations/%s", secret),
		}
		for _, other := range carol {
			for _, path := range paths {
				other.wantNothing(path)
			}
		}
		// An invitation would give carol the room's history.
		alice.SetState(room, "m.room.join_rules", "", map[string]any{"join_rule": "public"})
		carol[0].Join(room)
		for _, other := range carol {
			other.sync(0)
			for _, path := range paths {
				other.wantNothing(path)
			}
			if other.saw("CANARY") {
				t.Errorf("%s reads it in a sync", other.account.DeviceID)
			}
		}
		for _, device := range bob {
			other := newCurl(t, proxy.URL, device.account) // from the beginning, with the same token
			other.sync(0)
			if device == bob[0] { // Synapse answers a first sync for minutes as it did before; the next ones have the rest
				other.Await(room, testpeer.Where{"event_id": secret, "body": "CANARY for bob"})
			}
		}
		wantOwnKeys(t, bob, carol)
	})
}

// wantOwnKeys fails unless the recovery key of each user is for that user's tokens only.
func wantOwnKeys(t *testing.T, users ...[2]*curl) {
	t.Helper()
	owner := map[string]string{}
	for _, devices := range users {
		for _, c := range devices {
			c.awaitInOrder()
			key := c.recoveryKey()
			if before := owner[key]; before != "" && before != c.account.UserID {
				t.Errorf("%s and %s have one recovery key", before, c.account.UserID)
			}
			owner[key] = c.account.UserID
			status := c.get(control + "status")
			for _, others := range users {
				if other := others[0].account.UserID; other != c.account.UserID && contains(status.Body, other) {
					t.Errorf("the status of %s names %s: %s", c.account.UserID, other, status.Body)
				}
			}
		}
	}
	for _, token := range []string{"", "no token of anybody's", strings.Repeat("x", 4096)} {
		resp, err := tesths.Client{URL: users[0][0].http.URL, Token: token}.Do(t.Context(), http.MethodGet, control+"recovery_key", nil)
		if err != nil || resp.Status != http.StatusUnauthorized {
			t.Errorf("without a token of anybody's the recovery key answers %d, %v", resp.Status, err)
		}
	}
}

// awaitInOrder waits until the proxy has no problem to report for the device: it is
// signed, and secret storage and backup are there.
func (c *curl) awaitInOrder() {
	c.t.Helper()
	c.await("not in order", func(ctx context.Context) error {
		var s standing
		if err := c.http.Call(ctx, http.MethodGet, control+"status", nil, &s); err != nil {
			return err
		}
		if len(s.Problems) > 0 {
			return fmt.Errorf("%+v", s.Problems)
		}
		return nil
	})
}

// awaitSetUp is awaitInOrder for an account with a device whose ID was used before: Synapse
// never shows that it is confirmed (see TestDeviceIDIsUsedAgain). The client syncs twice, as
// one without keys of its own does.
func (c *curl) awaitSetUp() {
	c.t.Helper()
	var first struct {
		NextBatch string `json:"next_batch"`
	}
	c.call(http.MethodGet, "/_matrix/client/v3/sync?timeout=0", nil, &first)
	c.call(http.MethodGet, "/_matrix/client/v3/sync?timeout=0&since="+url.QueryEscape(first.NextBatch), nil, nil)
	c.await("not set up", func(ctx context.Context) error {
		codes, err := c.problemCodes(ctx)
		codes = slices.DeleteFunc(codes, func(code string) bool {
			return code == "signature_not_shown" || code == "other_devices_not_signed"
		})
		if err == nil && len(codes) > 0 {
			err = fmt.Errorf("status says %v", codes)
		}
		return err
	})
}

func (c *curl) get(path string) tesths.Response {
	c.t.Helper()
	resp, err := c.http.Do(c.t.Context(), http.MethodGet, path, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp
}

// wantNothing fails when an answer has the text.
func (c *curl) wantNothing(path string) {
	c.t.Helper()
	if resp := c.get(path); contains(resp.Body, "CANARY") {
		c.t.Errorf("%s gets %d at %s: %s", c.account.DeviceID, resp.Status, path, resp.Body)
	}
}
