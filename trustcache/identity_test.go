package trustcache

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
)

// store1 returns the row of a tracked user who is not outdated.
func store1(user id.UserID) store.User { return store.User{UserID: user, Tracked: true} }

func TestParseIdentity(t *testing.T) {
	t.Parallel()
	p, other := newPerson(alice, "1"), newPerson(alice, "2")
	master := p.masterFields()
	self, user := p.bySelf(p.selfSigningFields(), p.master), p.bySelf(p.userSigningFields(), p.master)
	rekeyed := func(f fields, name string, value any) fields { return with(f, "keys", fields{name: value}) }
	m := p.master.public.String()
	for _, tc := range []struct {
		name               string
		master, self, user json.RawMessage
		want               error
	}{
		{"complete", master.raw(), self, user, nil},
		{"master key alone", master.raw(), nil, nil, nil},
		{"master key signed by itself", p.bySelf(master, p.master), self, nil, nil},
		{"master key signed by a device", master.sign(alice, "PHONE", newSigner("x")).raw(), self, nil, nil},
		{"padded key and name", rekeyed(master, "ed25519:"+m+"=", m+"=").raw(), self, nil, nil},
		{"unknown fields", with(master, "x", fields{"y": 1}).raw(), self, nil, nil},
		{"signed under a padded name", master.raw(), p.selfSigningFields().sign(alice, m+"=", p.master).raw(), nil, nil},

		{"nothing", nil, nil, nil, ErrNoIdentity},
		{"null", json.RawMessage("null"), json.RawMessage(" null "), nil, ErrNoIdentity},
		{"no master key", nil, self, user, ErrNoIdentity},
		{"self-signing key not signed", master.raw(), p.selfSigningFields().raw(), nil, ErrSignature},
		{"self-signing key signed by itself", master.raw(), p.bySelf(p.selfSigningFields(), p.selfSign), nil, ErrSignature},
		{"self-signing key signed by another master key", master.raw(), p.bySelf(p.selfSigningFields(), other.master), nil, ErrSignature},
		{
			"self-signing key signed by another key under the master key's name", master.raw(),
			p.selfSigningFields().sign(alice, m, other.master).raw(), nil, ErrSignature,
		},
		{"user-signing key not signed", master.raw(), self, p.userSigningFields().raw(), ErrSignature},
		{"slots swapped", master.raw(), user, self, ErrMalformed},
		{"master key in the self-signing slot", master.raw(), p.bySelf(master, p.master), nil, ErrMalformed},
		{"two usages", with(master, "usage", []string{"master", "self_signing"}).raw(), self, nil, ErrMalformed},
		{"no usage", with(master, "usage", []string{}).raw(), self, nil, ErrMalformed},
		{"usage is a text", with(master, "usage", "master").raw(), self, nil, ErrMalformed},
		{"other user", with(master, "user_id", bob).raw(), self, nil, ErrMalformed},
		{"two keys", with(master, "keys", fields{"ed25519:" + m: m, "ed25519:x": m}).raw(), self, nil, ErrMalformed},
		{"no keys", with(master, "keys", fields{}).raw(), self, nil, ErrMalformed},
		{"another algorithm", rekeyed(master, "curve25519:"+m, m).raw(), self, nil, ErrMalformed},
		{"named after another key", rekeyed(master, "ed25519:"+other.master.public.String(), m).raw(), self, nil, ErrMalformed},
		{"named after a device", rekeyed(master, "ed25519:PHONE", m).raw(), self, nil, ErrBadKey},
		{"small order", rekeyed(master, "ed25519:"+strings.Repeat("A", 43), strings.Repeat("A", 43)).raw(), nil, nil, ErrBadKey},
		{"one key in two slots", master.raw(), p.bySelf(with(master, "usage", []string{"self_signing"}), p.master), nil, ErrMalformed},
		{"not JSON", json.RawMessage("{"), self, nil, ErrMalformed},
	} {
		got, err := ParseIdentity(alice, tc.master, tc.self, tc.user)
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.name, err, tc.want)
		}
		if err == nil && got.Master != p.master.public {
			t.Errorf("%s: master key %s", tc.name, got.Master)
		}
		if err != nil && got.Master != "" {
			t.Errorf("%s: an identity along with an error", tc.name)
		}
	}
	if got := p.identity(t); got.SelfSigning != p.selfSign.public || got.UserSigning != p.userSign.public || len(got.Keys()) != 3 {
		t.Errorf("got %+v", got)
	}
}

func TestMasterSignedBy(t *testing.T) {
	t.Parallel()
	me, peer, other := newPerson(alice, "1"), newPerson(bob, "1"), newPerson(alice, "2")
	raw := peer.masterSignedBy(me)
	for _, tc := range []struct {
		name string
		raw  json.RawMessage
		by   id.UserID
		key  id.Ed25519
		want bool
	}{
		{"ours", raw, alice, me.userSign.public, true},
		{"no key", raw, alice, "", false},
		{"another key", raw, alice, other.userSign.public, false},
		{"our self-signing key", peer.masterFields().sign(alice, me.selfSign.public.String(), me.selfSign).raw(), alice, me.userSign.public, false},
		{"another user", raw, bob, me.userSign.public, false},
		{"moved to another master key", with(newPerson(bob, "2").masterFields(), "signatures", json.RawMessage(signaturesOf(t, raw))).raw(), alice, me.userSign.public, false},
		{"nothing", nil, alice, me.userSign.public, false},
		{"not JSON", json.RawMessage("{"), alice, me.userSign.public, false},
	} {
		if got := masterSignedBy(tc.raw, tc.by, tc.key); got != tc.want {
			t.Errorf("%s: got %v", tc.name, got)
		}
	}
}

func signaturesOf(t *testing.T, raw json.RawMessage) []byte {
	t.Helper()
	obj, err := parseObject(raw)
	if err != nil {
		t.Fatal(err)
	}
	return obj.Get("signatures")
}

func FuzzParseIdentity(f *testing.F) {
	p := newPerson(alice, "1")
	self := p.bySelf(p.selfSigningFields(), p.master)
	f.Add([]byte(p.masterFields().raw()), []byte(self))
	f.Add([]byte(`{"user_id":"@alice:example.org","usage":["master"],"keys":{"ed25519:A":"A"}}`), []byte("null"))
	f.Fuzz(func(t *testing.T, master, self []byte) {
		out, err := ParseIdentity(alice, master, self, nil)
		if err != nil {
			return
		}
		if len(out.Master.Bytes()) != 32 || (out.SelfSigning != "" && len(out.SelfSigning.Bytes()) != 32) {
			t.Fatalf("bad keys accepted: %+v", out)
		}
		again, err := restoreIdentity(store.User{UserID: alice, Master: out.MasterRaw, SelfSigning: out.SelfSigningRaw})
		if err != nil || again.Master != out.Master || again.SelfSigning != out.SelfSigning {
			t.Fatalf("read again: %v", err)
		}
	})
}
