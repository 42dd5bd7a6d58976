package e2e

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testproxy"
)

// A send is never held up by a long poll of the proxy's own that has just begun, be it
// the first after a start or one after the client stopped syncing: it is answered long
// before that poll is.
func TestSendDoesNotWaitForAPoll(t *testing.T) {
	s := liar.New(t)
	b := s.Login("bob", "BOB")
	room := s.CreateRoom(true, b.UserID)
	proxy := testproxy.Start(t, s.URL, testproxy.Options{})
	bob := newCurl(t, proxy.URL, tesths.Account{UserID: b.UserID, DeviceID: b.DeviceID, AccessToken: b.Token})
	bob.SendText(room, "the device is set up")

	parked := make(chan struct{}, 100)
	s.Intercept(liar.Is("GET", "/sync$"), func(r *liar.Request, next func() liar.Reply) liar.Reply {
		if strings.Contains(r.Query, "timeout=30000") {
			parked <- struct{}{}
		}
		return next()
	})
	send := func(when string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		err := bob.http.Call(ctx, http.MethodPut, roomPath(room, "send/m.room.message/%s", bob.nextTxn()), text(when), nil)
		if err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	for range 3 {
		if err := proxy.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		send("right after a start")
	}
	for len(parked) > 0 {
		<-parked
	}
	bob.sync(0)
	<-parked // the client was silent long enough: the proxy polls again
	send("right after the proxy began to poll")
}
