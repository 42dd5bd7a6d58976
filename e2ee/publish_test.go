package e2ee_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// Reported: a client that uploads its own device keys is left alone, also when its first
// sync, after which it does so, takes longer than the proxy waits: that of a large account
// takes minutes. What needs keys publishes them all the same.
func TestFirstSyncThatTakesLong(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	r := newRig(t, hs, nil)
	s := hs.Login("bob", "BOB")
	uploads := func(of liar.Session) int {
		return len(hs.Requests(liar.Of(of.UserID, liar.Is(http.MethodPost, "keys/upload"))))
	}
	d, err := r.eng.Device(t.Context(), id.UserID(s.UserID), id.DeviceID(s.DeviceID), secret.NewString(s.Token))
	if err != nil {
		t.Fatal(err)
	}
	first, err := d.BeginSync(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	d.PublishWithin(time.Millisecond) // what is 10 s outside of tests
	other := hs.Login("carol", "CAROL")
	r.device(other).PublishWithin(10 * time.Millisecond)
	await(t, "a device whose client does not sync waits longer", func() bool { return uploads(other) > 0 })
	if n := uploads(s); n != 0 {
		t.Fatalf("%d uploads while the client's first sync is on its way", n)
	}
	settle, err := r.eng.ClientHasKeys(t.Context(), id.UserID(s.UserID), id.DeviceID(s.DeviceID), secret.NewString(s.Token))
	if err != nil || settle == nil {
		t.Fatalf("the client's own keys are refused: %v", err)
	}
	if err := settle(t.Context(), false); err != nil { // it thought better of it
		t.Fatal(err)
	}
	first.End()
	if uploads(s) != 0 {
		t.Error("published at the moment at which the client gets its answer")
	}
	second, err := d.BeginSync(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer second.End()
	d.PublishWithin(0) // it sends
	await(t, "the keys are published", func() bool { return uploads(s) == 1 })
}

// A homeserver answers without the device's keys once, and fails when they are uploaded again.
// That does not make the device one that was never published: keys that its client brings
// are refused, and what is stored of it stays.
func TestKeysThatTheHomeserverLostAreNotTheClients(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	r := newRig(t, hs, nil)
	s := hs.Login("bob", "BOB")
	ready(t, r.device(s))
	keys := status(t, r.device(s)).Keys
	hidden := hs.Intercept(liar.Is(http.MethodPost, "keys/query"), liar.Edit(func(_ *liar.Request, body map[string]any) {
		body["device_keys"] = map[string]any{s.UserID: map[string]any{}}
	}))
	fails := hs.Intercept(liar.Is(http.MethodPost, "keys/upload"), liar.Fail(http.StatusInternalServerError, "M_UNKNOWN"))
	if got := status(t, r.device(s)); inOrder(got) {
		t.Fatal("status says that all is well: the test tests nothing")
	}
	settle, err := r.eng.ClientHasKeys(t.Context(), id.UserID(s.UserID), id.DeviceID(s.DeviceID), secret.NewString(s.Token))
	if err != nil || settle != nil {
		t.Fatalf("keys of the client are let through: %v, %v", settle != nil, err)
	}
	hidden()
	fails()
	await(t, "it is not in order again", func() bool { return inOrder(status(t, r.device(s))) })
	if now := status(t, r.device(s)).Keys; now != keys {
		t.Errorf("it has other keys: %v, %v", now, keys)
	}
}

// Until it is decided who has a device's keys its client may have some, and what is asked
// about that decides nothing: it adopts no device, and publishes nothing.
func TestWhoseClientMayEncrypt(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	r := newRig(t, hs, nil)
	may := func(s liar.Session, want bool, when string) {
		t.Helper()
		got, err := r.eng.ClientMayEncrypt(t.Context(), id.UserID(s.UserID), id.DeviceID(s.DeviceID))
		if err != nil || got != want {
			t.Errorf("%s: %t, %v", when, got, err)
		}
	}
	s := hs.Login("bob", "BOB")
	may(s, true, "never seen")
	if n := len(hs.Requests(liar.Of(s.UserID, liar.Is(http.MethodPost, "keys/query")))); n != 0 {
		t.Errorf("the homeserver was asked %d times", n)
	}
	d, err := r.eng.Device(t.Context(), id.UserID(s.UserID), id.DeviceID(s.DeviceID), secret.NewString(s.Token))
	if err != nil {
		t.Fatal(err)
	}
	may(s, true, "adopted, and nothing published")
	if !d.ClientMayEncrypt() {
		t.Error("the device says otherwise")
	}
	r.restart()
	may(s, true, "the same, not in memory")
	ready(t, r.device(s))
	may(s, false, "published")
	r.restart()
	may(s, false, "published, not in memory")

	own := hs.Login("carol", "CAROL")
	settle, err := r.eng.ClientHasKeys(t.Context(), id.UserID(own.UserID), id.DeviceID(own.DeviceID), secret.NewString(own.Token))
	if err != nil || settle == nil {
		t.Fatalf("the client's own keys are refused: %v", err)
	}
	if err := settle(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	may(own, true, "with keys of its own")
	foreign, err := r.eng.Device(t.Context(), id.UserID(own.UserID), id.DeviceID(own.DeviceID), secret.NewString(own.Token))
	if err != nil || !foreign.ClientMayEncrypt() {
		t.Errorf("with keys of its own, loaded: %v", err)
	}
}

// A device that has just been seen has its keys, and its owner's signature on them, as soon as it may
// join a room: what others send before that it could never read. A homeserver that takes no keys
// holds no join up for good.
func TestDeviceIsReadyToJoin(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	r := newRig(t, hs, nil)
	open := func(name string) *e2ee.Device {
		s := hs.Login(name, "NEW")
		d, err := r.eng.Device(t.Context(), id.UserID(s.UserID), id.DeviceID(s.DeviceID), secret.NewString(s.Token))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := open("alice")
	d.BeforeJoin(t.Context())
	if got, err := d.Status(t.Context()); err != nil || !got.Identity.Ours || !got.Identity.DeviceSigned {
		t.Errorf("it has %+v, %v", got.Identity, err)
	}
	if n := len(hs.Requests(liar.Is(http.MethodPost, "keys/upload"))); n == 0 {
		t.Error("it has no keys")
	}
	late, release := open("carol"), make(chan struct{})
	hs.Intercept(liar.Is(http.MethodPost, "keys/upload"), func(_ *liar.Request, next func() liar.Reply) liar.Reply {
		<-release
		return next()
	})
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if late.BeforeJoin(ctx); ctx.Err() != nil {
		t.Error("the join waits for ever")
	}
}
