package megolm

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// aKey returns a session that is known from its third message on, and its exported key.
func aKey(t *testing.T) (*session.MegolmInboundSession, string) {
	t.Helper()
	out, err := session.NewMegolmOutboundSession()
	if err != nil {
		t.Fatal(err)
	}
	advance(t, out, 2)
	in := megolmAt(t, out)
	exported, err := in.Export(in.FirstKnownIndex())
	if err != nil {
		t.Fatal(err)
	}
	return in, string(exported)
}

// rowOf returns a stored session.
func rowOf(t *testing.T, in *session.MegolmInboundSession, owner Owner, source store.Source) store.InboundSession {
	t.Helper()
	raw, err := owner.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return store.InboundSession{
		SessionRef: store.SessionRef{RoomID: "!r:x", SessionID: in.ID()}, Pickle: in.PickleLibOlm(), Owner: raw, Source: source,
		FirstIndex: in.FirstKnownIndex(), SharedHistory: true,
	}
}

// What a room key is for other clients, member by member (Client-Server API,
// "BackedUpSessionData", "Key export format"; requirement 16.4, and 17.4 for shared_history).
// Members of other clients come first, as they came; ours are always true.
func TestDataOfARoomKey(t *testing.T) {
	t.Parallel()
	in, exported := aKey(t)
	for _, tc := range []struct {
		name, extra, want string
		shared            bool
	}{
		{"nothing of others", ``, `{%s}`, true},
		{"not shareable", ``, `{%s}`, false},
		{"members of others", `{"com.example":{"n":1.0},"x":null}`, `{"com.example":{"n":1.0},"x":null,%s}`, true},
		{"members that would replace ours", `{"algorithm":"other","com.example":1,"session_key":"other"}`, "", true},
		{"what is stored of others is damaged", `[1,2]`, `{%s}`, true},
	} {
		row := rowOf(t, in, Owner{Owner: trustcache.Owner{UserID: "@bob:x", Curve25519: "curve", Ed25519: "ed"}}, store.SourceDirect)
		row.SharedHistory = tc.shared
		if tc.extra != "" {
			owner := ReadOwner(row.Owner)
			owner.Extra = json.RawMessage(tc.extra)
			raw, err := owner.Encode()
			if err != nil {
				t.Fatal(err)
			}
			row.Owner = raw
		}
		data, owner, err := Data(&row)
		if err != nil {
			t.Fatal(err)
		}
		ours := `"algorithm":"m.megolm.v1.aes-sha2","forwarding_curve25519_key_chain":[],"sender_claimed_keys":{"ed25519":"ed"},"sender_key":"curve","session_key":"` +
			exported + `","shared_history":` + fmt.Sprint(tc.shared)
		want := strings.Replace(tc.want, "%s", ours, 1)
		if tc.want == "" {
			want = strings.Replace(`{"algorithm":"m.megolm.v1.aes-sha2","com.example":1,"session_key":"KEY",`, "KEY", exported, 1) +
				`"forwarding_curve25519_key_chain":[],"sender_claimed_keys":{"ed25519":"ed"},"sender_key":"curve","shared_history":true}`
		}
		if got := string(data.Encode()); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", tc.name, got, want)
		}
		if owner.UserID != "@bob:x" || owner.Curve25519 != "curve" {
			t.Errorf("%s: the owner is %+v", tc.name, owner)
		}
	}
	for name, change := range map[string]func(row *store.InboundSession){
		"a damaged key":             func(row *store.InboundSession) { row.Pickle = row.Pickle[:40] },
		"no key":                    func(row *store.InboundSession) { row.Pickle = nil },
		"an index before the key's": func(row *store.InboundSession) { row.FirstIndex = 1 },
	} {
		row := rowOf(t, in, Owner{}, store.SourceDirect)
		change(&row)
		if data, _, err := Data(&row); err == nil || data != nil {
			t.Errorf("%s: exported", name)
		}
	}
}

// What is taken of a room key's data that came from a backup, a forward or a file: the key if
// it is what its name says (attack A16), the sender's keys as a claim that proves nothing, and
// the members that nobody here knows, up to a size.
func TestRoomKeyFromData(t *testing.T) {
	t.Parallel()
	in, exported := aKey(t)
	_, another := aKey(t)
	ref := store.SessionRef{RoomID: "!r:x", SessionID: in.ID()}
	base := strictjson.Object{
		{Name: "algorithm", Value: strictjson.Quote("m.megolm.v1.aes-sha2")},
		{Name: "sender_claimed_keys", Value: json.RawMessage(`{"ed25519":"ed"}`)},
		{Name: "sender_key", Value: strictjson.Quote("curve")},
		{Name: "session_key", Value: strictjson.Quote(exported)},
	}
	with := func(name, value string) json.RawMessage {
		return slices.Clone(base).Set(name, json.RawMessage(value)).Encode()
	}
	for _, tc := range []struct {
		name            string
		data            json.RawMessage
		ok              bool
		shared          bool
		curve, ed, more string
	}{
		{"as it should be", base.Encode(), true, false, "curve", "ed", ""},
		{"shareable", with("shared_history", `true`), true, true, "curve", "ed", ""},
		{"shareable by its first name", with("org.matrix.msc3061.shared_history", `true`), true, true, "curve", "ed", ""},
		{"not shareable", with("shared_history", `false`), true, false, "curve", "ed", ""},
		{"shareable, as a text", with("shared_history", `"true"`), true, false, "curve", "ed", ""},
		{"a member of another client", with("com.example", `{"n":1.0}`), true, false, "curve", "ed", `{"com.example":{"n":1.0}}`},
		{"the devices that forwarded it", with("forwarding_curve25519_key_chain", `["a"]`), true, false, "curve", "ed", `{"forwarding_curve25519_key_chain":["a"]}`},
		{"the largest members of others", with("x", `"`+strings.Repeat("a", maxExtra-8)+`"`), true, false, "curve", "ed", `{"x":"` + strings.Repeat("a", maxExtra-8) + `"}`},
		{"members that are too large", with("x", `"`+strings.Repeat("a", maxExtra-7)+`"`), true, false, "curve", "ed", ""},
		{"a sender's key that is no text", with("sender_key", `7`), true, false, "", "ed", ""},
		{"claimed keys that are a list", with("sender_claimed_keys", `["ed"]`), true, false, "curve", "", ""},
		{"claimed keys of another kind", with("sender_claimed_keys", `{"curve25519":"x"}`), true, false, "curve", "", ""},
		{"an owner that anybody could name", with(FieldOwner, `{"room_id":"!r:x","owner":{"user_id":"@bob:x"}}`), true, false, "curve", "ed", ""},
		{"another algorithm", with("algorithm", `"m.megolm.v2"`), false, false, "", "", ""},
		{"no algorithm", base.Without("algorithm").Encode(), false, false, "", "", ""},
		{"another session's key", with("session_key", `"`+another+`"`), false, false, "", "", ""},
		{"a key that is none", with("session_key", `"AQ"`), false, false, "", "", ""},
		{"no key", base.Without("session_key").Encode(), false, false, "", "", ""},
		{"a name twice", append(base.Encode()[:len(base.Encode())-1:len(base.Encode())-1], `,"algorithm":"x"}`...), false, false, "", "", ""},
		{"a list", json.RawMessage(`[]`), false, false, "", "", ""},
		{"nothing", nil, false, false, "", "", ""},
	} {
		for _, source := range []store.Source{store.SourceBackup, store.SourceForwarded, store.SourceImport} {
			row, err := FromData(ref, tc.data, source, false)
			if !tc.ok {
				if !errors.Is(err, strictjson.ErrMalformed) || row.SessionID != "" {
					t.Errorf("%s: taken, %v", tc.name, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", tc.name, err)
				continue
			}
			owner := ReadOwner(row.Owner)
			if row.SessionRef != ref || row.Source != source || row.FirstIndex != 2 || row.SharedHistory != tc.shared {
				t.Errorf("%s: it is %v from %s, from %d on, shared %v", tc.name, row.SessionRef, row.Source, row.FirstIndex, row.SharedHistory)
			}
			if owner.Attested || owner.UserID != "" || owner.Signed || owner.Curve25519.String() != tc.curve || owner.Ed25519.String() != tc.ed || string(owner.Extra) != tc.more {
				t.Errorf("%s: the owner is %+v", tc.name, owner)
			}
			if ProvesOwner(row.Source, owner.Owner) {
				t.Errorf("%s: an owner is proven by who gave the key", tc.name)
			}
		}
	}
}

// Whose a key is by an authenticated backup (MSC4048, requirement 16.9). The owner must be
// named for this session and have the keys that stand beside it: a homeserver that swaps
// entries, or owners, attests nobody. What says of itself that it proves nothing is believed.
func TestAttestedOwners(t *testing.T) {
	t.Parallel()
	in, exported := aKey(t)
	ref := store.SessionRef{RoomID: "!r:x", SessionID: in.ID()}
	bob := trustcache.Owner{UserID: "@bob:x", DeviceID: "BOB", Curve25519: "curve", Ed25519: "ed", Signed: true, Master: "M"}
	named := func(change func(n *NamedOwner)) json.RawMessage {
		n := NamedOwner{RoomID: ref.RoomID, SessionID: ref.SessionID, Owner: bob}
		if change != nil {
			change(&n)
		}
		raw, err := json.Marshal(n)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	for _, tc := range []struct {
		name     string
		owner    json.RawMessage // what the data names; nil: nobody
		change   func(data strictjson.Object) strictjson.Object
		attested bool
		user     id.UserID
	}{
		{"named by us", named(nil), nil, true, "@bob:x"},
		{"by another client, which names nobody", nil, nil, true, ""},
		{"of another room", named(func(n *NamedOwner) { n.RoomID = "!other:x" }), nil, false, ""},
		{"of another session", named(func(n *NamedOwner) { n.SessionID = "other" }), nil, false, ""},
		{"without a user", named(func(n *NamedOwner) { n.Owner.UserID = "" }), nil, false, ""},
		{"with another Curve25519 key", named(func(n *NamedOwner) { n.Owner.Curve25519 = "other" }), nil, false, ""},
		{"with another Ed25519 key", named(func(n *NamedOwner) { n.Owner.Ed25519 = "other" }), nil, false, ""},
		{"an owner that is none", json.RawMessage(`"@bob:x"`), nil, false, ""},
		{"no sender's key", named(nil), func(d strictjson.Object) strictjson.Object { return d.Without("sender_key") }, false, ""},
		{"no claimed key", named(nil), func(d strictjson.Object) strictjson.Object { return d.Without("sender_claimed_keys") }, false, ""},
		{"no claimed key, and nobody named", nil, func(d strictjson.Object) strictjson.Object { return d.Without("sender_claimed_keys") }, false, ""},
		{"it says that it proves nothing", named(nil), func(d strictjson.Object) strictjson.Object {
			return d.Set(FieldUnauthentic, strictjson.Quote("m.legacy-v1"))
		}, false, ""},
		{"it says so with nothing", named(nil), func(d strictjson.Object) strictjson.Object { return d.Set(FieldUnauthentic, json.RawMessage(`null`)) }, false, ""},
	} {
		data := strictjson.Object{
			{Name: "algorithm", Value: strictjson.Quote("m.megolm.v1.aes-sha2")},
			{Name: "sender_claimed_keys", Value: json.RawMessage(`{"ed25519":"ed"}`)},
			{Name: "sender_key", Value: strictjson.Quote("curve")},
			{Name: "session_key", Value: strictjson.Quote(exported)},
		}
		if tc.owner != nil {
			data = data.Set(FieldOwner, tc.owner)
		}
		if tc.change != nil {
			data = tc.change(data)
		}
		row, err := FromData(ref, data.Encode(), store.SourceBackup, true)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		owner := ReadOwner(row.Owner)
		if owner.Attested != tc.attested || owner.UserID != tc.user || owner.Signed != (tc.user != "") || len(owner.Extra) > 0 {
			t.Errorf("%s: %+v", tc.name, owner)
		}
		if ProvesOwner(row.Source, owner.Owner) != tc.attested {
			t.Errorf("%s: proven %v", tc.name, !tc.attested)
		}
		// Without the MAC of the backup none of it is believed.
		if row, err = FromData(ref, data.Encode(), store.SourceBackup, false); err != nil || ReadOwner(row.Owner).Attested {
			t.Errorf("%s: believed without a MAC, %v", tc.name, err)
		}
	}
}

// What is written of a key is read again as the same key, with what others added to it, and
// once more; and its owner, who was proven, is only claimed then.
func TestDataIsReadAgain(t *testing.T) {
	t.Parallel()
	in, _ := aKey(t)
	row := rowOf(t, in, Owner{
		Owner: trustcache.Owner{UserID: "@bob:x", DeviceID: "BOB", Curve25519: "curve", Ed25519: "ed", Signed: true},
		Extra: json.RawMessage(`{"com.example":[1],"forwarding_curve25519_key_chain":["a","b"]}`),
	}, store.SourceDirect)
	var last string
	for range 3 {
		data, _, err := Data(&row)
		if err != nil {
			t.Fatal(err)
		}
		if chain := ForwardedBy(data); !slices.Equal(chain, []string{"a", "b"}) {
			t.Errorf("it was forwarded by %v", chain)
		}
		if row, err = FromData(row.SessionRef, data.Encode(), store.SourceImport, false); err != nil {
			t.Fatal(err)
		}
		owner := ReadOwner(row.Owner)
		if owner.UserID != "" || owner.Signed || owner.Curve25519 != "curve" || owner.Ed25519 != "ed" || row.FirstIndex != 2 || !row.SharedHistory {
			t.Errorf("it came back as %+v of %+v", row, owner)
		}
		if last != "" && string(data.Encode()) != last {
			t.Errorf("it was\n%s\nand is\n%s", last, data.Encode())
		}
		last = string(slices.Clone(data).Encode())
	}
}

// Which devices forwarded a key is what its data says, if it is a list of texts.
func TestForwardedBy(t *testing.T) {
	t.Parallel()
	for chain, want := range map[string][]string{
		`["a","b"]`: {"a", "b"}, `[]`: {}, `null`: {}, `7`: {}, `"a"`: {}, `{}`: {}, `["a",7]`: {}, ``: {},
	} {
		var data strictjson.Object
		if chain != "" {
			data = data.Set(FieldForwards, json.RawMessage(chain))
		}
		if got := ForwardedBy(data); got == nil || !slices.Equal(got, want) {
			t.Errorf("%s: %#v", chain, got)
		}
	}
}

// A stored owner that cannot be read is nobody: an event of that key is shown as unproven, and
// never as somebody's.
func TestDamagedOwners(t *testing.T) {
	t.Parallel()
	for _, raw := range []secret.Bytes{nil, secret.Bytes(``), secret.Bytes(`{`), secret.Bytes(`[]`), secret.Bytes(`{"user_id":7,"signed":true}`), secret.Bytes(`{"signed":"yes"}`)} {
		if o := ReadOwner(raw); o.UserID != "" || o.Signed || o.Contested || o.Extra != nil {
			t.Errorf("%s is %+v", raw.Reveal(), o)
		}
		if o := WhoseOwner(raw); o.UserID != "" || o.Signed {
			t.Errorf("%s is %+v", raw.Reveal(), o)
		}
	}
}
