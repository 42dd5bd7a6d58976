package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"e2ee-proxy/internal/testbrowser"
	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

// A person whose account was set up in Element signs in to the console, as somebody would who was only
// given its address: it says what is wrong and where to go; the wrong key changes nothing, the right
// one, typed without blanks, confirms the device; a friend's reset blocks a room until it is accepted
// on the page; and a reset of the own identity shows a new key, once. All of it without script.
func TestMendInTheConsole(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		host := testpeer.NodeHost(t)
		alice, a := peerOf(t, hs, host, "alice")
		phone, b := peerOf(t, hs, host, "bob")
		room := bring(t, hs, alice, b)
		login, err := hs.Client().Login(t.Context(), b.UserID, b.Password, "")
		if err != nil {
			t.Fatal(err)
		}
		bob := newCurl(t, proxy.URL, login)
		bob.awaitProblem("device_not_signed")

		p := testbrowser.Start(t).Open(testbrowser.Look{NoScript: true})
		enter(t, p, proxy, b)
		p.Wants("Your messages do not reach encrypted rooms from here yet", "Enter your recovery key")
		p.Picture("real-not-signed-" + hs.Kind)
		p.Follow("Confirm this device")
		p.Fill("#recovery_key", "EsTx nonsense")
		p.Follow("Confirm this device")
		p.Wants("This recovery key or passphrase is not the one of your account", "Nothing was changed")
		p.Picture("real-wrong-key-" + hs.Kind)
		p.Follow("Go back")
		p.Fill("#recovery_key", strings.ReplaceAll(phone.RecoveryKey, " ", ""))
		p.Follow("Confirm this device")
		p.Wants("Your message history is being fetched")
		bob.await("the end of the warnings", func(context.Context) error { // which follow what was done
			if n := len(bob.warnings()); n > 0 {
				return fmt.Errorf("there are %d", n)
			}
			return nil
		})
		p.Follow("Status")
		p.Wants("All is well", "Your other devices 1")
		wantClean(t, alice.AwaitDecrypted(room, bob.SendText(room, "from a confirmed device")), "from a confirmed device")

		alice.Reset(a.Password)
		bob.awaitUser(a.UserID, "changed")
		p.Follow("Status")
		p.Wants("Some rooms wait for you", "digital identity was reset")
		p.Follow("Answer the warnings")
		p.Follow("Look at " + a.UserID)
		p.Wants("Ask them in another way before you accept it")
		p.Follow("Accept the new identity")
		p.Wants("The new digital identity is accepted", "Not verified")
		wantClean(t, alice.AwaitDecrypted(room, bob.SendText(room, "after the reset")), "after the reset")

		before := bob.status().Identity.MasterKey
		p.Follow("Recovery")
		p.Press("You have lost your recovery key")
		p.Fill("#reset-password", "not the password")
		p.Press("I am sure that I have no other way")
		p.Follow("Reset my digital identity")
		p.Wants("The homeserver did not accept the password. Nothing was changed.")
		p.Follow("Go back")
		p.Press("You have lost your recovery key")
		p.Fill("#reset-password", b.Password)
		p.Press("I am sure that I have no other way")
		p.Follow("Reset my digital identity")
		p.Wants("This is the only time that it is shown here", "Es")
		if now := bob.status().Identity; now.MasterKey == before || !now.Ours || !now.DeviceSigned {
			t.Errorf("after the reset: %+v", now)
		}
		p.Follow("I have kept it")
		if text := p.Text(); strings.Contains(text, "Show it now") {
			t.Errorf("the key is still there:\n%s", text)
		}
	})
}

// A session that began at one replica holds at the other, whoever of them has the account; one that
// was ended at one has ended at both. A load balancer sends each request to another of them.
func TestConsoleAtReplicas(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		r := startReplicas(t, hs.URL, 2)
		var turn atomic.Int64
		balancer := &http.Server{Handler: &httputil.ReverseProxy{Rewrite: func(q *httputil.ProxyRequest) {
			to, err := url.Parse(r.all[turn.Add(1)%2].URL)
			if err != nil {
				t.Error(err)
				return
			}
			q.SetURL(to)
			q.Out.Host = q.In.Host
		}, FlushInterval: -1}}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = balancer.Serve(ln) }() // ends with Close
		t.Cleanup(func() { _ = balancer.Close() })
		at := fmt.Sprintf("http://%s", ln.Addr())

		alice, a := peerOf(t, hs, testpeer.NodeHost(t), "alice")
		bob := newCurl(t, r.all[0].URL, newAccount(t, hs, "bob"))
		room := bring(t, hs, alice, bob.account)
		wantClean(t, alice.AwaitDecrypted(room, bob.SendText(room, "before")), "before")
		p := testbrowser.Start(t).Open(testbrowser.Look{})
		enter(t, p, &testproxy.Proxy{URL: at}, bob.account)
		for range 2 {
			for page, says := range map[string]string{"Status": "All is well", "People": a.UserID, "Recovery": "Your recovery key", "History": "Your message history is saved"} {
				p.Follow(page)
				p.Wants("Signed in as "+bob.account.UserID, says)
			}
		}
		p.Follow("Recovery")
		p.Follow("Show it now, this once")
		p.Wants("This is the only time")
		p.Follow("Sign out")
		for _, one := range r.all {
			p.Goto(one.URL + consolePath)
			p.Wants("Sign in")
		}
	})
}
