package e2ee_test

import (
	"encoding/base64"
	"errors"
	"maps"
	"slices"
	"testing"

	"maunium.net/go/mautrix/crypto/goolm/pk"

	"e2ee-proxy/internal/liar"
)

func errorAs[T error](err error, target *T) bool { return errors.As(err, target) }
func errorIs(err, target error) bool             { return errors.Is(err, target) }

// forgery is an identity that a homeserver made up for a user.
type forgery struct {
	user                             string
	master, selfSigning, userSigning *pk.Signing
}

func newForgery(t *testing.T, user string) *forgery {
	t.Helper()
	f := &forgery{user: user}
	for _, slot := range []**pk.Signing{&f.master, &f.selfSigning, &f.userSigning} {
		key, err := pk.NewSigning()
		if err != nil {
			t.Fatal(err)
		}
		*slot = key
	}
	return f
}

// sign adds a signature to an object.
func (f *forgery) sign(t *testing.T, obj map[string]any, key *pk.Signing) map[string]any {
	t.Helper()
	sig, err := key.SignJSON(obj)
	if err != nil {
		t.Fatal(err)
	}
	signatures, _ := obj["signatures"].(map[string]any)
	if signatures == nil {
		signatures = map[string]any{}
		obj["signatures"] = signatures
	}
	mine, _ := signatures[f.user].(map[string]any)
	if mine == nil {
		mine = map[string]any{}
		signatures[f.user] = mine
	}
	mine["ed25519:"+key.PublicKey().String()] = sig
	return obj
}

func (f *forgery) public(usage string, key *pk.Signing) map[string]any {
	name := key.PublicKey().String()
	return map[string]any{"user_id": f.user, "usage": []string{usage}, "keys": map[string]any{"ed25519:" + name: name}}
}

// show puts the made-up identity into an answer to /keys/query, and has it sign devices.
func (f *forgery) show(t *testing.T, body map[string]any, user string, devices ...string) {
	t.Helper()
	all, _ := body["device_keys"].(map[string]any)
	of, ok := all[user].(map[string]any)
	if !ok {
		return
	}
	for _, name := range devices {
		if dev, ok := of[name].(map[string]any); ok {
			of[name] = f.sign(t, dev, f.selfSigning)
		}
	}
	for slot, key := range map[string]map[string]any{
		"master_keys":       f.public("master", f.master),
		"self_signing_keys": f.sign(t, f.public("self_signing", f.selfSigning), f.master),
		"user_signing_keys": f.sign(t, f.public("user_signing", f.userSigning), f.master),
	} {
		into, _ := body[slot].(map[string]any)
		if into == nil {
			into = map[string]any{}
			body[slot] = into
		}
		into[user] = key
	}
}

func unpadded(b []byte) string { return base64.RawStdEncoding.EncodeToString(b) }

func signingKey(t *testing.T, seed string) *pk.Signing {
	t.Helper()
	raw, err := base64.RawStdEncoding.DecodeString(seed)
	if err != nil {
		t.Fatal(err)
	}
	key, err := pk.NewSigningFromSeed(raw)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// editBackedKeys changes every key in an answer of the backup: of one key, or of a room.
func editBackedKeys(change func(r *liar.Request, key map[string]any)) liar.Hook {
	return liar.Edit(func(r *liar.Request, body map[string]any) {
		sessions, ofRoom := body["sessions"].(map[string]any)
		if !ofRoom {
			change(r, body)
		}
		for _, key := range sessions {
			if one, ok := key.(map[string]any); ok {
				change(r, one)
			}
		}
	})
}

// swapBackedKeys answers for each of two keys of a room with the other.
func swapBackedKeys(_ *liar.Request, body map[string]any) {
	sessions, ok := body["sessions"].(map[string]any)
	if !ok || len(sessions) != 2 {
		return
	}
	names := slices.Sorted(maps.Keys(sessions))
	sessions[names[0]], sessions[names[1]] = sessions[names[1]], sessions[names[0]]
}
