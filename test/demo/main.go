package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := play(ctx, demo)
	stop()
	os.Exit(code)
}

// demo is the play: bob's client is plain and talks to the proxy, alice's is Element's
// and talks to the homeserver.
func demo(s *stage) {
	fmt.Println("Preparing; the first time, Dendrite is built and matrix-js-sdk is installed below .cache/,\nwhich takes some minutes.")
	var hs *tesths.Homeserver
	var proxy *testproxy.Proxy
	var alice *testpeer.Client
	var bob *plain
	var a, b tesths.Account
	s.prepare("the homeserver: build and start Dendrite", func() { hs = tesths.Dendrite(s) })
	s.prepare("the proxy: build and start", func() { proxy = testproxy.Start(s, hs.URL, testproxy.Options{}) })
	s.prepare("alice: install matrix-js-sdk, log in, set up her identity", func() {
		a = register(s, hs, "alice")
		alice = testpeer.Element(s, testpeer.Options{URL: hs.URL, User: a.UserID, Password: a.Password, Setup: testpeer.Bootstrap})
	})
	s.prepare("bob: log in through the proxy", func() {
		b = register(s, hs, "bob")
		bob = login(s, proxy, b)
	})
	fmt.Printf("\nhomeserver   %s  Dendrite\nproxy        %s  in front of it\n", hs.URL, proxy.URL)
	fmt.Printf("alice        Element's encryption, messages from insecure devices excluded; talks to the homeserver\n")
	fmt.Printf("bob          plain HTTP requests, no encryption at all; talks to the proxy\n\n")

	room := alice.CreateRoom(testpeer.Room{Encrypted: true, Invite: []string{b.UserID}})
	bob.call(s, http.MethodPost, "join/"+url.PathEscape(room), map[string]any{}, nil)
	alice.AwaitMember(room, b.UserID, "join")

	const hello, answer = "Hello Alice, this is plain old HTTP.", "Hello Bob, I can read you, and nothing looks odd."
	sent := bob.send(s, room, hello)
	seen := alice.AwaitDecrypted(room, sent)
	show("bob sends", hello)
	show("alice sees", describe(seen))
	stored(s, hs, b, room, sent)
	if seen.Body != hello || seen.Sender != b.UserID || seen.Shield == nil || seen.Shield.Colour != "NONE" {
		s.Errorf("alice should see that text from %s with no shield", b.UserID)
	}

	fmt.Println()
	replied := alice.SendText(room, answer)
	got := bob.await(s, room, replied)
	show("alice sends", answer)
	show("bob sees", fmt.Sprintf("%q from %s, %s", got.Content.Body, got.Sender, got.Unsigned.Trust.shield()))
	stored(s, hs, b, room, replied)
	if got.Type != "m.room.message" || got.Content.Body != answer || got.Unsigned.Trust.Color != "none" {
		s.Errorf("bob should see that text in an m.room.message with no shield")
	}
	if !s.failed {
		fmt.Println("\n✓ Both can read, nobody sees a warning, and the homeserver has ciphertext only.")
	}
}

func show(what, text string) { fmt.Printf("%-12s %s\n", what, text) }

func describe(m testpeer.Message) string {
	shield := "no shield"
	if m.Shield == nil {
		shield = "not encrypted"
	} else if m.Shield.Colour != "NONE" {
		shield = "shield " + m.Shield.Colour + " " + m.Shield.Reason
	}
	return fmt.Sprintf("%q from %s, %s", m.Body, m.Sender, shield)
}

// stored shows an event as the homeserver keeps it, which must be ciphertext.
func stored(s *stage, hs *tesths.Homeserver, as tesths.Account, room, event string) {
	e, err := hs.Client().As(as).Event(s.ctx, room, event)
	if err != nil {
		s.Fatalf("read the event back: %v", err)
	}
	var content struct {
		Ciphertext string `json:"ciphertext"`
		Body       string `json:"body"`
	}
	if err := json.Unmarshal(e.Content, &content); err != nil {
		s.Fatalf("read the event back: %v", err)
	}
	show("stored is", fmt.Sprintf("%s %.48s…", e.Type, content.Ciphertext))
	if e.Type != "m.room.encrypted" || content.Ciphertext == "" || content.Body != "" {
		s.Errorf("the homeserver should have ciphertext only")
	}
}

func register(s *stage, hs *tesths.Homeserver, name string) tesths.Account {
	a, err := hs.Register(s.ctx, name, "password of "+name)
	if err != nil {
		s.Fatalf("%v", err)
	}
	return a
}
