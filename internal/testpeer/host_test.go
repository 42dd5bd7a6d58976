package testpeer_test

import (
	"errors"
	"testing"
	"time"

	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/testpeer"
)

// Each kind of client opens, sends and reads. The homeserver is one in this process.
func TestClients(t *testing.T) {
	for name, open := range map[string]func(t *testing.T, o testpeer.Options) *testpeer.Client{
		"element": func(t *testing.T, o testpeer.Options) *testpeer.Client {
			o.Setup = testpeer.Bootstrap
			return testpeer.Element(t, o)
		},
		"plain js": func(t *testing.T, o testpeer.Options) *testpeer.Client { return testpeer.PlainJS(t, o) },
		"nio":      func(t *testing.T, o testpeer.Options) *testpeer.Client { return testpeer.Nio(t, o) },
	} {
		t.Run(name, func(t *testing.T) {
			s := liar.New(t)
			user, password := s.AddUser("alice")
			alice := open(t, testpeer.Options{URL: s.URL, User: user, Password: password, Device: "PHONE"})
			if alice.UserID != user || alice.DeviceID != "PHONE" || alice.AccessToken == "" {
				t.Errorf("opened as %s, %s", alice.UserID, alice.DeviceID)
			}
			room := alice.CreateRoom(testpeer.Room{})
			sent := alice.SendText(room, "hello")
			if got := alice.AwaitText(room, "hello"); got.EventID != sent {
				t.Errorf("reads %s, sent %s", got.EventID, sent)
			}
			if len(alice.Timeline(room)) == 0 || !alice.Saw("hello") {
				t.Error("the timeline is empty")
			}
		})
	}
}

// What a client cannot do is an error with the server's code, and what it does not see
// is an error after the deadline.
func TestErrors(t *testing.T) {
	s := liar.New(t)
	user, password := s.AddUser("alice")
	for name, alice := range map[string]*testpeer.Client{
		"js":  testpeer.PlainJS(t, testpeer.Options{URL: s.URL, User: user, Password: password}),
		"nio": testpeer.Nio(t, testpeer.Options{URL: s.URL, User: user, Password: password}),
	} {
		t.Run(name, func(t *testing.T) {
			room := alice.CreateRoom(testpeer.Room{})
			s.Intercept(liar.Is("PUT", "/send/"), liar.Fail(403, "DEV.TEST"))
			err := alice.Try("sendText", map[string]any{"room": room, "body": "hello"}, nil)
			var failure *testpeer.Error
			if !errors.As(err, &failure) || failure.Errcode != "DEV.TEST" || failure.HTTPStatus != 403 {
				t.Errorf("a refused send gives %v", err)
			}
			if _, err := alice.TryAwait(100*time.Millisecond, room, testpeer.Where{"body": "hello"}); err == nil {
				t.Error("sees what was not sent")
			}
		})
	}
}
