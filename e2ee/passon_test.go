package e2ee_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// Seen between Dendrite (0.15.2) and Synapse (1.163.2): a signature that is uploaded by itself
// does not reach users of other homeservers, who leave the device out of their room keys. What
// reaches them are the device's keys as it uploaded them.

// passedOn returns by which keys the device keys were signed that a device uploaded, in the order
// of the uploads.
func passedOn(hs *liar.Server, s liar.Session) (signers [][]string) {
	for _, r := range hs.Requests(liar.Of(s.UserID, liar.Is(http.MethodPost, "keys/upload$"))) {
		var sent struct {
			Keys *struct {
				DeviceID   string                       `json:"device_id"`
				Signatures map[string]map[string]string `json:"signatures"`
			} `json:"device_keys"`
		}
		if r.JSON(&sent) == nil && sent.Keys != nil && sent.Keys.DeviceID == s.DeviceID {
			signers = append(signers, slices.Sorted(maps.Keys(sent.Keys.Signatures[s.UserID])))
		}
	}
	return signers
}

// bySelf and withOwner are the signers of device keys without and with the owner's signature.
func bySelf(s liar.Session) []string { return []string{"ed25519:" + s.DeviceID} }

func withOwner(hs *liar.Server, s liar.Session) []string {
	all := append(bySelf(s), "ed25519:"+hs.CrossSigningKey(s.UserID, "self_signing"))
	slices.Sort(all)
	return all
}

func awaitPassedOn(t *testing.T, hs *liar.Server, s liar.Session, want ...[]string) {
	t.Helper()
	var got [][]string
	defer func() {
		if t.Failed() {
			t.Logf("the keys were uploaded with the signatures of %q, not of %q", got, want)
		}
	}()
	await(t, "the keys are not passed on as they should be", func() bool {
		got = passedOn(hs, s)
		return slices.EqualFunc(got, want, slices.Equal)
	})
}

// The keys are uploaded again with the signature: once for each identity, whoever signed, and
// not for each start.
func TestSignatureIsPassedOnWithTheKeys(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	p := newPerson(t, hs, "alice", "BOT")
	first := withOwner(hs, p.Session)
	awaitPassedOn(t, hs, p.Session, bySelf(p.Session), first)
	for range 3 {
		p.dev.Maintain(t.Context())
	}
	p.restart()
	settle(t, p.dev)
	p.dev.Maintain(t.Context())
	awaitPassedOn(t, hs, p.Session, bySelf(p.Session), first)

	if _, err := p.dev.Reset(t.Context(), e2ee.UserAuth{Password: secret.NewString("password of alice")}); err != nil {
		t.Fatal(err)
	}
	p.dev.Maintain(t.Context())
	second := withOwner(hs, p.Session)
	if slices.Equal(first, second) {
		t.Fatal("the identity is the same after the reset")
	}
	awaitPassedOn(t, hs, p.Session, bySelf(p.Session), first, second)
}

// A device that another client of its owner confirmed does the same, and does it again when the
// homeserver lost its keys and they were uploaded as they are made.
func TestSignatureOfAnotherClientIsPassedOn(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	p := newPerson(t, hs, "alice", "PHONE")
	s := hs.Login("alice", "BOT")
	d := newRig(t, hs, nil).device(s)
	settle(t, d)
	awaitPassedOn(t, hs, s, bySelf(s))

	secrets, err := p.dev.Secrets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	key := signingKey(t, secrets["m.cross_signing.self_signing"])
	var shown json.RawMessage
	hs.EditDeviceKeys(s.UserID, s.DeviceID, func(keys map[string]any) {
		if shown, err = json.Marshal(keys); err != nil {
			t.Error(err)
		}
	})
	signed, err := wire.SignWith(shown, id.UserID(s.UserID), key)
	if err != nil {
		t.Fatal(err)
	}
	call(t, hs, p.Session, http.MethodPost, "keys/signatures/upload", map[string]any{s.UserID: map[string]any{s.DeviceID: signed}}, nil)
	d.Maintain(t.Context())
	awaitPassedOn(t, hs, s, bySelf(s), withOwner(hs, s))

	undo := hs.Intercept(liar.Of(s.UserID, liar.Is(http.MethodPost, "keys/query$")), liar.Edit(func(r *liar.Request, body map[string]any) {
		if len(passedOn(hs, s)) == 2 {
			delete(body["device_keys"].(map[string]any)[s.UserID].(map[string]any), s.DeviceID)
		}
	}))
	defer undo()
	looksAgain(t, hs, s)
	await(t, "the keys are not uploaded again", func() bool {
		d.Maintain(t.Context())
		return len(passedOn(hs, s)) == 4
	})
	awaitPassedOn(t, hs, s, bySelf(s), withOwner(hs, s), bySelf(s), withOwner(hs, s))
}

// A homeserver that refuses such keys is not asked with every sync, and nothing else suffers.
func TestSignedKeysAreRefused(t *testing.T) {
	t.Parallel()
	for _, refusal := range []int{http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound} {
		t.Run(http.StatusText(refusal), func(t *testing.T) {
			t.Parallel()
			signedKeysAreRefused(t, refusal)
		})
	}
}

func signedKeysAreRefused(t *testing.T, refusal int) {
	t.Helper()
	hs := liar.New(t)
	s, bob := hs.Login("alice", "BOT"), newPerson(t, hs, "bob", "BOBS")
	hs.Intercept(liar.Of(s.UserID, liar.Is(http.MethodPost, "keys/upload$")), func(r *liar.Request, next func() liar.Reply) liar.Reply {
		var sent struct {
			Keys struct {
				Signatures map[string]map[string]string `json:"signatures"`
			} `json:"device_keys"`
		}
		if r.JSON(&sent) == nil && len(sent.Keys.Signatures[s.UserID]) > 1 {
			return liar.Failure(refusal, "M_UNKNOWN", "one signature only")
		}
		return next()
	})
	p := &person{t: t, hs: hs, rig: newRig(t, hs, nil), Session: s}
	p.dev = p.rig.device(s)
	ready(t, p.dev)
	awaitPassedOn(t, hs, s, bySelf(s), withOwner(hs, s))
	room := p.newRoom(bob)
	for range 5 {
		p.dev.Maintain(t.Context())
		p.send(room, "all the same")
	}
	if n := len(passedOn(hs, s)); n != 2 {
		t.Errorf("%d uploads of device keys", n)
	}
	if got := problems(status(t, p.dev)); len(got) != 0 {
		t.Errorf("status says %v", got)
	}
}
