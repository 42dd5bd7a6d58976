package clients

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"testing"

	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproc"
)

// awaitTimes waits until the peer has read a text n times, each as an event of its own.
func (p *place) awaitTimes(t *testing.T, text string, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := testproc.Await(ctx, func(context.Context) error {
		events := map[string]bool{}
		for _, m := range p.peer.Timeline(p.room) {
			if m.Body == text && m.Decrypted && m.Shield != nil && m.Shield.Colour == "NONE" {
				events[m.EventID] = true
			}
		}
		if len(events) != n {
			return fmt.Errorf("the peer has read it %d times, want %d", len(events), n)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Issue: "Apprise sends `0` after every login […]. IDs are kept apart per session". The same
// alert twice, each with a login of its own and transaction 0: the peer has two events. So it
// has of a program that logs in again as the same device, where a homeserver sees but one.
func TestSameAlertAfterAnotherLogin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.newPlace(t)
	const alert = "The disk is full"
	c := apprise(t, p, false)
	c.say(t, alert)
	p.awaitTimes(t, alert, 1)
	// What it keeps of a session is below its home; without it, it logs in anew.
	p.dir = t.TempDir()
	c.say(t, alert)
	p.awaitTimes(t, alert, 2)

	const again = "It still is"
	for n := range 2 {
		session, err := p.proxy.Client().Login(t.Context(), p.localpart(), p.account.Password, "MONITOR")
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // and its answer got lost
			path := "/_matrix/client/v3/rooms/" + url.PathEscape(p.room) + "/send/m.room.message/0"
			if err := p.proxy.Client().As(session).Call(t.Context(), http.MethodPut, path, map[string]string{"msgtype": "m.text", "body": again}, nil); err != nil {
				t.Fatal(err)
			}
		}
		p.awaitTimes(t, again, n+1)
	}
}

// Issue: "with an attachment the same ID for file and text; a server would swallow the
// second […] the same ID with another body is a new event, counted". With a token Apprise
// makes one transaction ID for all that it sends: two messages of one process are two events,
// in an encrypted room and in one that is not.
func TestAppriseUsesOneIDForAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.newPlace(t)
	p.invite(false)
	session, err := p.proxy.Client().Login(t.Context(), p.localpart(), p.account.Password, "")
	if err != nil {
		t.Fatal(err)
	}
	plain := p.peer.CreateRoom(testpeer.Room{Invite: []string{p.account.UserID}})
	for _, room := range []string{p.room, plain} {
		to := "matrix://" + session.AccessToken + "@" + p.address() + "/" + url.PathEscape(room)
		cmd := exec.Command(python(t, "apprise"), "-u", driver(t, "apprise_token.py"))
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		notifier := start(t, p, cmd, "TO="+to)
		for _, text := range []string{"One", "Two"} {
			if _, err := io.WriteString(in, text+"\n"); err != nil {
				t.Fatal(err)
			}
			await(t, notifier, "sent "+text)
			p.peer.Await(room, testpeer.Where{"body": text, "sender": p.account.UserID})
		}
	}
	metrics, err := p.proxy.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(metrics, "\ne2ee_proxy_reused_transactions_total 2\n") {
		t.Error("two reused transaction IDs are not counted")
	}
}
