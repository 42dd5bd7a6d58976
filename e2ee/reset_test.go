package e2ee_test

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// A reset makes all of it anew: identity, secret storage, backup, recovery key; every
// room key goes into the new backup, and nothing of the old identity is left in secret
// storage (requirement 1.8).
func TestReset(t *testing.T) {
	t.Parallel()
	alice, bob, room := pair(t)
	bob.send(room, "hello to you")
	backedUp(t, alice.hs, alice.UserID, 2)
	before := alice.master()
	oldKey, oldStorage := recoveryKey(t, alice.dev), defaultKey(t, alice.hs, alice.Session)
	newKey, err := alice.dev.Reset(t.Context(), e2ee.UserAuth{Password: secret.NewString("password of alice")})
	if err != nil {
		t.Fatal(err)
	}
	ready(t, alice.dev)
	storage := defaultKey(t, alice.hs, alice.Session)
	if alice.master() == before || newKey.Reveal() == oldKey.Reveal() || storage == oldStorage {
		t.Error("something was not replaced")
	}
	for _, name := range secretNames {
		if got := secretsIn(t, alice.hs, alice.Session, name); len(got) != 1 || got[0] != storage {
			t.Errorf("%s is under %v, want %s alone", name, got, storage)
		}
	}
	if version := backedUp(t, alice.hs, alice.UserID, 2); version != "2" {
		t.Errorf("backed up in version %s", version)
	}
	if codes := warningCodes(t, alice.dev); len(codes) != 0 {
		t.Errorf("the user is warned of their own reset: %+v", codes)
	}
	alice.send(room, "after")
	await(t, "bob is not told", func() bool {
		_, err := bob.dev.User(t.Context(), idUser(alice.UserID))
		return err == nil && warningCodes(t, bob.dev)["identity_changed"].ID != ""
	})
	other := &person{rig: newRig(t, alice.hs, nil), Session: alice.hs.Login("alice", "OTHER")}
	other.dev = other.rig.device(other.Session)
	settle(t, other.dev)
	wantErr(t, "the old recovery key", other.dev.Recover(t.Context(), e2ee.Recovery{Key: oldKey}), e2ee.ErrWrongRecoveryKey)
	if err := other.dev.Recover(t.Context(), e2ee.Recovery{Key: newKey}); err != nil {
		t.Error(err)
	}
}

func recoveryKey(t *testing.T, d *e2ee.Device) secret.String {
	t.Helper()
	key, err := d.RecoveryKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Where a password is not enough the client does the homeserver's authentication itself:
// the first call gives it flows and session, the second carries its answer, which goes to
// the homeserver as it is (requirement 12.6).
func TestResetPassesAuthenticationThrough(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	alice := newPerson(t, hs, "alice", "FIRST")
	before := alice.master()
	upload := liar.Of(alice.UserID, liar.Is("POST", "device_signing/upload"))
	hs.Intercept(upload, func(r *liar.Request, next func() liar.Reply) liar.Reply {
		var body map[string]any
		if err := r.JSON(&body); err != nil {
			return liar.Failure(400, "M_NOT_JSON", "")
		}
		if auth, _ := body["auth"].(map[string]any); auth["type"] == "m.login.sso" && auth["session"] == "the session" {
			body["auth"] = map[string]any{"type": "m.login.password", "session": "s", "password": "password of alice"}
			raw, err := json.Marshal(body)
			if err != nil {
				return liar.Failure(500, "M_UNKNOWN", "")
			}
			r.Body = raw
			return next()
		}
		return liar.Reply{Status: 401, Body: map[string]any{
			"session": "the session", "params": map[string]any{},
			"flows": []any{map[string]any{"stages": []string{"m.login.sso"}}},
		}}
	})
	_, err := alice.dev.Reset(t.Context(), e2ee.UserAuth{Password: secret.NewString("password of alice")})
	var needed *e2ee.AuthNeededError
	if !errorAs(err, &needed) || needed.Stage != "m.login.sso" {
		t.Fatalf("the first call: %v", err)
	}
	var said map[string]any
	if err := json.Unmarshal(needed.Body, &said); err != nil || said["session"] != "the session" {
		t.Errorf("the challenge: %s", needed.Body)
	}
	if alice.master() != before {
		t.Fatal("the identity was replaced without authentication")
	}
	ready(t, alice.dev)
	_, err = alice.dev.Reset(t.Context(), e2ee.UserAuth{Stage: json.RawMessage(`{"type":"m.login.sso","session":"the session"}`)})
	if err != nil || alice.master() == before {
		t.Fatalf("the second call: %v", err)
	}
	ready(t, alice.dev)
}

// On a homeserver with OAuth the user allows the reset on a web page, of which the error
// gives the address; only one that a browser may open.
func TestResetNamesTheWebPage(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"https://account.example.org/?action=org.matrix.cross_signing_reset": "https://account.example.org/?action=org.matrix.cross_signing_reset",
		"javascript:alert(1)": "", "https://": "", "file:///etc/passwd": "",
	} {
		for _, stage := range []string{"m.oauth", "org.matrix.cross_signing_reset"} {
			hs := liar.New(t)
			alice := newPerson(t, hs, "alice", "FIRST")
			before, allowed := alice.master(), false
			hs.Intercept(liar.Is("POST", "device_signing/upload"), func(r *liar.Request, next func() liar.Reply) liar.Reply {
				var body map[string]any
				if err := r.JSON(&body); err != nil {
					return liar.Failure(400, "M_NOT_JSON", "")
				}
				if auth, _ := body["auth"].(map[string]any); allowed && len(auth) == 1 && auth["session"] == "x" {
					body["auth"] = map[string]any{"type": "m.login.password", "session": "s", "password": "password of alice"}
					raw, err := json.Marshal(body)
					if err != nil {
						return liar.Failure(500, "M_UNKNOWN", "")
					}
					r.Body = raw
					return next()
				}
				return liar.Reply{Status: 401, Body: map[string]any{
					"session": "x", "flows": []any{map[string]any{"stages": []string{stage}}},
					"params": map[string]any{stage: map[string]any{"url": url}},
				}}
			})
			_, err := alice.dev.Reset(t.Context(), e2ee.UserAuth{})
			var needed *e2ee.AuthNeededError
			if !errorAs(err, &needed) || needed.Stage != stage || needed.URL != want {
				t.Errorf("%s at %s: %+v", stage, url, err)
			}
			// Not allowed yet, then allowed: the stage needs nothing but its session.
			done := e2ee.UserAuth{Stage: json.RawMessage(`{"session":"x"}`)}
			if _, err = alice.dev.Reset(t.Context(), done); !errorAs(err, &needed) || alice.master() != before {
				t.Errorf("before the user allows it: %v", err)
			}
			allowed = true
			if _, err = alice.dev.Reset(t.Context(), done); err != nil || alice.master() == before {
				t.Errorf("once the user allows it: %v", err)
			}
		}
	}
}

// Servers that ask for authentication even for the first identity get the password of the
// login through the proxy, and it is forgotten with that. Another client that was quicker
// keeps its identity: being asked may mean that one would be replaced (requirement 1.2).
func TestFirstIdentityWithPassword(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	hs.RequireUIAForFirstKeys()
	r := newRig(t, hs, nil)
	s := hs.Login("alice", "FIRST")
	d := r.device(s)
	settle(t, d)
	if st := status(t, d); st.Identity.MasterKey != "" || !problems(st)["no_identity"] {
		t.Errorf("without a password: %+v", st.Identity)
	}
	if err := r.eng.LoggedIn(t.Context(), idUser(s.UserID), "FIRST", secret.NewString(s.Token), secret.Bytes("password of alice")); err != nil {
		t.Fatal(err)
	}
	d.Maintain(t.Context())
	ready(t, d)
	identity := hs.CrossSigningKey(s.UserID, "master")

	// The second client looks before there is one, and publishes after.
	quick := newRig(t, hs, nil)
	late := hs.Login("alice", "LATE")
	var hidden bool
	hs.Intercept(liar.Of(s.UserID, liar.Is("POST", "keys/query")), liar.Edit(func(r *liar.Request, body map[string]any) {
		if r.DeviceID == "LATE" && !hidden {
			for _, name := range []string{"master_keys", "self_signing_keys", "user_signing_keys"} {
				delete(body, name)
			}
		}
	}))
	hs.Intercept(liar.Is("POST", "device_signing/upload"), func(_ *liar.Request, next func() liar.Reply) liar.Reply {
		hidden = true
		return next()
	})
	ld, err := quick.eng.Device(t.Context(), idUser(s.UserID), "LATE", secret.NewString(late.Token))
	if err != nil {
		t.Fatal(err)
	}
	if err := quick.eng.LoggedIn(t.Context(), idUser(s.UserID), "LATE", secret.NewString(late.Token), secret.Bytes("password of alice")); err != nil {
		t.Fatal(err)
	}
	ld.PublishWithin(0)
	await(t, "the late device does not look", func() bool {
		own, err := ld.Own(t.Context())
		return err == nil && own.Current.String() == identity
	})
	if hs.CrossSigningKey(s.UserID, "master") != identity {
		t.Error("the identity was replaced by a bootstrap")
	}
	secrets, err := ld.Secrets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if names := slices.Sorted(maps.Keys(secrets)); slices.Contains(names, "m.cross_signing.master") {
		await(t, "keys that were never published stay", func() bool {
			secrets, err := ld.Secrets(t.Context())
			return err == nil && secrets["m.cross_signing.master"] == ""
		})
	}
}

// Who lost the recovery key resets on a device that was never confirmed: the new identity
// signs it, and the device that held the old one is told. So it is for an account that
// never had an identity.
func TestResetByAnUnsignedDevice(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	first := newPerson(t, hs, "alice", "FIRST")
	before := first.master()
	password := e2ee.UserAuth{Password: secret.NewString("password of alice")}
	d := newRig(t, hs, nil).device(hs.Login("alice", "SECOND"))
	settle(t, d)
	key, err := d.Reset(t.Context(), password)
	if err != nil || key.IsZero() {
		t.Fatalf("the reset: %v", err)
	}
	ready(t, d)
	if hs.CrossSigningKey(first.UserID, "master") == before.String() {
		t.Error("the identity is the old one")
	}
	await(t, "the first device is not told", func() bool { return warningCodes(t, first.dev)["own_identity_changed"].ID != "" })
	if err := first.dev.Recover(t.Context(), e2ee.Recovery{Key: key}); err != nil {
		t.Fatal(err)
	}
	ready(t, first.dev)

	bob := newRig(t, hs, func(o *e2ee.Options) { o.ManualBootstrap = true }).device(hs.Login("bob", "BOBS"))
	settle(t, bob)
	if key, err = bob.Reset(t.Context(), e2ee.UserAuth{}); err != nil || key.IsZero() {
		t.Fatalf("a reset of nothing: %v", err)
	}
	ready(t, bob)
}
