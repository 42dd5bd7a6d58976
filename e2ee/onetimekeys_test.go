package e2ee_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"

	"maunium.net/go/mautrix/crypto/olm"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/liar"
)

// keysKept is how many one-time keys the engine keeps at the homeserver in these tests: fewer
// than 50, because to make them is most of what it costs to begin with a new device.
const keysKept = 12

func (st *stage) keysLeft() int { return st.hs.OneTimeKeyCount(st.alice.UserID, st.alice.DeviceID) }

// drain claims one-time keys until so many are left, while none can be uploaded.
func (st *stage) drain(by *puppet, left int) {
	st.t.Helper()
	defer st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("POST", "keys/upload$")), liar.Fail(http.StatusInternalServerError, "M_UNKNOWN"))()
	for st.keysLeft() > left {
		by.claim(st.target())
	}
	st.told()
}

// upkeep is what the next sync leads to.
func (st *stage) upkeep() {
	st.t.Helper()
	st.told()
	st.dev.Maintain(st.t.Context())
}

// The homeserver's supply is kept up: when half of it is gone, and also when a homeserver
// does not say that all of it is, because it leaves an empty count out (requirement 3.3).
// One that always leaves it out is not given keys without end.
func TestOneTimeKeysAreKeptUp(t *testing.T) {
	t.Parallel()
	for _, left := range []int{keysKept / 3, 0} {
		t.Run(fmt.Sprint(left), func(t *testing.T) {
			st := newStage(t, nil)
			bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
			st.hs.Intercept(liar.Is("GET", "/sync"), liar.Edit(func(_ *liar.Request, body map[string]any) {
				raw, err := json.Marshal(body["device_one_time_keys_count"])
				if err != nil || string(raw) == `{"signed_curve25519":0}` {
					delete(body, "device_one_time_keys_count")
				}
			}))
			st.drain(bob, left)
			await(t, "the supply is not filled up", func() bool {
				st.upkeep()
				n := st.keysLeft() // as many as lacked when the keys were made
				return n > keysKept/2 && n <= keysKept
			})
		})
	}
	t.Run("always left out", func(t *testing.T) {
		st := newStage(t, nil)
		bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
		st.hs.Intercept(liar.Is("GET", "/sync"), liar.Edit(func(_ *liar.Request, body map[string]any) {
			delete(body, "device_one_time_keys_count")
		}))
		for range 5 {
			st.later(2 * time.Minute)
			st.upkeep()
		}
		if n := st.keysLeft(); n != keysKept {
			t.Errorf("%d keys, nobody used any", n)
		}
		st.drain(bob, 3)
		st.later(2 * time.Minute)
		st.upkeep()
		if n := st.keysLeft(); n != keysKept {
			t.Errorf("%d keys after nearly all were used", n)
		}
	})
}

// A sync that was answered before an upload, and is processed after it, tells of the supply
// before. Nothing is uploaded on top for it.
func TestCountFromBeforeAnUpload(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	st.sync()
	upload := st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("POST", "keys/upload$")), liar.Fail(http.StatusInternalServerError, "M_UNKNOWN"))
	for st.keysLeft() > 20 {
		bob.claim(st.target())
	}
	in, err := st.dev.BeginSync(t.Context(), st.since)
	if err != nil {
		t.Fatal(err)
	}
	defer in.End()
	var resp clientResponse
	if code := call(t, st.hs, st.alice, http.MethodGet, "sync?timeout=0&since="+url.QueryEscape(st.since), nil, &resp); code != http.StatusOK {
		t.Fatalf("sync answers %d", code)
	}
	upload()
	st.told()
	await(t, "the supply is not filled up", func() bool {
		st.dev.Maintain(t.Context())
		return st.keysLeft() > keysKept/2
	})
	if _, err := in.Commit(t.Context(), resp.update(st.since)); err != nil {
		t.Fatal(err)
	}
	st.dev.Maintain(t.Context())
	if n := st.keysLeft(); n > keysKept {
		t.Errorf("%d keys", n)
	}
}

// A fallback key that was used is replaced as soon as that is known, stays good for an hour
// for those who claimed it meanwhile, and for no longer (requirements 3.2, 3.4, 3.5).
func TestFallbackKeyIsReplaced(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.drain(bob, 0)
	stop := st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("POST", "keys/upload$")), liar.Fail(http.StatusInternalServerError, "M_UNKNOWN"))
	used := bob.claim(st.target())
	stop()
	say := func(text string) string {
		s, err := bob.acc.NewOutboundSession(st.target().curve25519, used)
		if err != nil {
			t.Fatal(err)
		}
		bob.sessions[st.target().curve25519] = []olm.Session{s}
		said := bob.newMegolm(room)
		said.share(st.target())
		return said.say(text)
	}
	st.awaitText(say("with the fallback key"), "with the fallback key")
	var current id.Curve25519
	await(t, "the fallback key is not replaced", func() bool {
		st.upkeep()
		for _, r := range st.hs.Requests(liar.Of(st.alice.UserID, liar.Is("POST", "keys/upload$"))) {
			var body struct {
				Keys map[string]struct {
					Key      id.Curve25519 `json:"key"`
					Fallback bool          `json:"fallback"`
				} `json:"fallback_keys"`
			}
			if err := r.JSON(&body); err != nil {
				t.Fatal(err)
			}
			for _, key := range body.Keys {
				if current = key.Key; !key.Fallback {
					t.Error("a fallback key does not say that it is one")
				}
			}
		}
		return current != used
	})
	st.awaitText(say("claimed before it was replaced"), "claimed before it was replaced")
	st.later(61 * time.Minute)
	st.upkeep()
	event := say("an hour later")
	if code := st.wantHidden(event, "an hour later"); code != "MissingRoomKey" {
		t.Error(code)
	}
}
