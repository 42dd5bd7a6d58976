package e2e

import (
	"net/http"
	"testing"

	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

// Requirements 1.20, 1.21; attack A2: a bridge's bot encrypts what others say, so that
// their events are of its room key. Where it is listed in policy.bridges they are shown,
// with the warning that the specification demands; where it is not, that is what a forger
// does, and they are held back.
func TestBridgeBot(t *testing.T) {
	t.Parallel()
	const (
		said     = "CANARY-of-a-ghost"
		notTheir = "A message that was not encrypted by its sender was held back."
	)
	s := liar.New(t)
	user, password := s.AddUser("bridge")
	bridge := testpeer.Element(t, testpeer.Options{URL: s.URL, User: user, Password: password, Setup: testpeer.Bootstrap})
	ghost := s.Login("ghost", "GHOST")
	listed := testproxy.Start(t, s.URL, testproxy.Options{Config: "policy:\n  bridges: [\"" + user + "\"]\n"})
	strict := testproxy.Start(t, s.URL, testproxy.Options{})
	login := func(proxy *testproxy.Proxy, name string) *curl {
		session := s.Login(name, "PLAIN")
		return newCurl(t, proxy.URL, tesths.Account{UserID: session.UserID, DeviceID: session.DeviceID, AccessToken: session.Token})
	}
	bob, carol := login(listed, "bob"), login(strict, "carol")

	room := bridge.CreateRoom(testpeer.Room{Encrypted: true, Invite: []string{ghost.UserID, bob.account.UserID, carol.account.UserID}})
	for _, token := range []string{ghost.Token, bob.account.AccessToken, carol.account.AccessToken} {
		direct := tesths.Client{URL: s.URL, Token: token}
		if err := direct.Call(t.Context(), http.MethodPost, roomPath(room, "join"), map[string]any{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, plain := range []*curl{bob, carol} {
		bridge.AwaitMember(room, plain.account.UserID, "join")
		bridge.AwaitDecrypted(room, plain.SendText(room, "hello"))
	}
	// What the bot encrypts from now on is the ghost's. (It has talked for itself before.)
	itself := bridge.SendText(room, "I am the bridge")
	for _, plain := range []*curl{bob, carol} {
		m := plain.Await(room, testpeer.Where{"event_id": itself, "body": "I am the bridge"})
		wantTrust(t, m, trust{Decrypted: true, Color: "none", UserID: user, DeviceID: bridge.DeviceID, Source: "direct"})
		s.Intercept(liar.Of(plain.account.UserID, liar.Is(http.MethodGet, "/(sync|rooms/.*)$")), liar.Edit(func(_ *liar.Request, body map[string]any) {
			claim(body, user, ghost.UserID)
		}))
	}
	sent := bridge.SendText(room, said)

	of := trust{Color: "red", Code: "MismatchedSender", UserID: user, DeviceID: bridge.DeviceID, Source: "direct"}
	m := carol.Await(room, testpeer.Where{"event_id": sent, "sender": ghost.UserID, "body": notTheir})
	wantTrust(t, m, of)
	wantNeverSeen(t, strict, carol, room, sent, said)
	m = bob.Await(room, testpeer.Where{"event_id": sent, "sender": ghost.UserID, "body": said})
	of.Decrypted = true
	wantTrust(t, m, of)
}

// claim makes an answer say that what somebody encrypted is another's.
func claim(answer any, owner, sender string) {
	switch v := answer.(type) {
	case []any:
		for _, each := range v {
			claim(each, owner, sender)
		}
	case map[string]any:
		if v["type"] == "m.room.encrypted" && v["sender"] == owner {
			v["sender"] = sender
		}
		for _, each := range v {
			claim(each, owner, sender)
		}
	}
}
