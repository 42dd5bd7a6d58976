package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

// replicaOf returns the replica that has the only account, and the other one.
func replicaOf(t *testing.T, a, b *testproxy.Proxy) (owner, other *testproxy.Proxy) {
	t.Helper()
	if owned(t, b) == "1" {
		return b, a
	}
	awaitMetric(t, a, "e2ee_proxy_cluster_accounts", "1")
	return a, b
}

// A person behind two replicas in turn writes in the control room and verifies an Element user:
// whichever replica takes a request. When the replica that has the account is killed, or stopped in
// good order, while they compare, the person is told through the other one, in the control room as
// well, and so is Element; then they begin anew.
func TestVerifyThroughReplicas(t *testing.T) {
	t.Parallel()
	hs := shared.Dendrite(t)
	shared := newCluster(t)
	first, second := shared.start(t, hs), shared.start(t, hs)
	front := &balancer{}
	front.use(first, second)

	host := testpeer.NodeHost(t)
	alice, a := peerOf(t, hs, host, "alice")
	b := newAccount(t, hs, "bob")
	bob := newCurl(t, first.URL, tesths.Account{})
	bob.http.Transport = front
	session, err := bob.http.Login(t.Context(), b.UserID, b.Password, "BOB1")
	if err != nil {
		t.Fatal(err)
	}
	bob.account, bob.http = session, bob.http.As(session)
	awaitMetric(t, first, "e2ee_proxy_cluster_replicas", "2")
	control := bob.controlRoom()
	bob.awaitInOrder()
	room := bring(t, hs, alice, bob.account)
	wantClean(t, alice.AwaitDecrypted(room, bob.SendText(room, "before")), "before")
	alice.ListenVerifications()
	owner, other := replicaOf(t, first, second)
	for times, graceful := range [...]bool{false, true} {
		bob.send(control, "m.room.message", map[string]any{"msgtype": "m.text", "body": "verify " + a.UserID})
		alice.AwaitVerification(map[string]any{"phase": "requested"})
		alice.AcceptVerification()
		alice.AwaitVerification(map[string]any{"emoji": true})
		v := bob.awaitVerification("compare")
		front.use(other)
		if graceful {
			err = owner.Stop()
		} else {
			owner.Kill()
		}
		if err != nil {
			t.Fatal(err)
		}
		bob.await("that it was interrupted", func(ctx context.Context) error {
			var now verification
			if err := bob.http.Call(ctx, http.MethodGet, verificationPath(v), nil, &now); err != nil {
				return err
			}
			if now.State != "cancelled" || now.Code != "dev.e2ee-proxy.restarted" || now.Message == "" {
				return fmt.Errorf("it is %+v", now)
			}
			return nil
		})
		bob.awaitSaid(control, "interrupted because the proxy was restarted", times+1)
		alice.AwaitVerification(map[string]any{"phase": "cancelled"})
		if now := bob.user(a.UserID); now.State != "pinned" {
			t.Errorf("alice is %s", now.State)
		}
		if err := owner.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		front.use(first, second)
		owner, other = other, owner
	}
	asked := bob.said(control, "Are they the same?")
	bob.send(control, "m.room.message", map[string]any{"msgtype": "m.text", "body": "verify " + a.UserID})
	alice.AwaitVerification(map[string]any{"phase": "requested"})
	alice.AcceptVerification()
	wantSameEmoji(t, alice.AwaitVerification(map[string]any{"emoji": true}), bob.awaitVerification("compare"))
	bob.awaitSaid(control, "Are they the same?", asked+1)
	alice.ConfirmEmoji()
	bob.until("the yes is not taken", func() bool {
		bob.send(control, "m.room.message", map[string]any{"msgtype": "m.text", "body": "yes"})
		return bob.said(control, "You have verified "+a.UserID)+bob.said(control, "Now the other side") > 0
	})
	bob.awaitSaid(control, "You have verified "+a.UserID, 1)
	alice.AwaitUserStatus(b.UserID, map[string]any{"verified": true})
}

func verificationPath(v verification) string { return control + "verifications/" + v.ID }

// said returns how often a text was said in a room, as far as the client has synced.
func (c *curl) said(room, text string) (n int) {
	for _, e := range c.timeline[room] {
		if e.Sender != c.account.UserID && strings.Contains(bodyOf(e), text) {
			n++
		}
	}
	return n
}

func (c *curl) awaitSaid(room, text string, times int) {
	c.t.Helper()
	c.until(text+" is not said", func() bool { return c.said(room, text) >= times })
}
