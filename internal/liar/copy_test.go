package liar

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// A copy has everything that the server had, and shares nothing with it that changes: what is
// done to the one does not show in the other. Bytes and headers are never changed in place.
func TestCopy(t *testing.T) {
	t.Parallel()
	s := filled(t)
	c := s.Copy(t)
	if c.URL == s.URL {
		t.Error("both have one address")
	}
	if !reflect.DeepEqual(c.state, s.state) {
		t.Errorf("the copy is\n%+v\nof\n%+v", c.state, s.state)
	}
	if len(c.Requests(nil)) != len(s.Requests(nil)) {
		t.Errorf("%d requests of %d", len(c.Requests(nil)), len(s.Requests(nil)))
	}
	in := make(map[uintptr]string)
	walk(t, "state", reflect.ValueOf(s.state), func(place string, at uintptr) { in[at] = place })
	seen := make(map[string]bool)
	walk(t, "state", reflect.ValueOf(c.state), func(place string, at uintptr) {
		seen[place] = true
		if in[at] != "" {
			t.Errorf("%s of the copy is %s of the server", place, in[at])
		}
	})
	// What is not filled is not tested.
	for _, place := range []string{
		"state.users[].devices[].fallback", "state.users[].devices[].oneTimeKeys[].key", "state.users[].devices[].toDevice",
		"state.users[].devices[].keys[][]", "state.users[].accountData", "state.users[].filters", "state.users[].oldSignatures[][]",
		"state.users[].crossSigning[][]", "state.users[].backups[].keys[]", "state.tokens", "state.txns", "state.notCopied", "state.files",
		"state.rooms[].state", "state.rooms[].events[].Unsigned", "state.rooms[].events[].StateKey", "state.rooms[].events[].txnDevice",
		"state.rooms[].events[].redactor",
	} {
		if !seen[place] {
			t.Errorf("nothing at %s, only at %v", place, slices.Sorted(maps.Keys(seen)))
		}
	}
}

// filled returns a server with something in every part of its state.
func filled(t *testing.T) *Server {
	t.Helper()
	s := New(t)
	s.KeepOldSignatures()
	s.LeaveOutOnUpgrade("m.room.topic")
	alice, gone := s.Login("alice", "ALICE"), s.Login("alice", "GONE")
	do := func(who Session, method, path string, body any) {
		t.Helper()
		raw, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		path, query, _ := strings.Cut("/_matrix/client/v3/"+path, "?")
		r := &Request{Method: method, Path: path, Query: query, Body: raw, Header: http.Header{"Authorization": {"Bearer " + who.Token}}}
		if got := s.answer(r); got.Status != http.StatusOK {
			t.Fatalf("%s %s: %+v", method, path, got)
		}
		s.requests = append(s.requests, r)
	}
	type o = map[string]any
	signed := o{"keys": o{"ed25519:A": "a"}, "signatures": o{alice.UserID: o{"ed25519:B": "b"}}, "usage": []string{"master"}}
	for _, who := range []Session{alice, gone} {
		do(who, "POST", "keys/upload", o{
			"device_keys":   signed,
			"one_time_keys": o{"signed_curve25519:1": o{"key": "x"}},
			"fallback_keys": o{"signed_curve25519:2": o{"key": "y"}},
		})
	}
	do(alice, "POST", "keys/device_signing/upload", o{"master_key": signed})
	room := s.CreateRoom(true, alice.UserID)
	path := "rooms/" + url.PathEscape(room) + "/"
	do(gone, "PUT", path+"send/m.room.message/1", o{"body": "a"})
	do(gone, "POST", "logout", o{})
	do(alice, "PUT", path+"send/m.room.message/1", o{"body": "b"})
	events := s.Events(room)
	do(alice, "PUT", path+"redact/"+url.PathEscape(events[len(events)-1].ID)+"/2", o{})
	s.Inject(room, Event{Type: "m.test", Sender: alice.UserID, Unsigned: o{"a": []any{o{}}}})
	do(alice, "PUT", "user/"+url.PathEscape(alice.UserID)+"/account_data/m.test", o{})
	do(alice, "POST", "user/"+url.PathEscape(alice.UserID)+"/filter", o{})
	do(alice, "POST", "room_keys/version", o{"algorithm": "a", "auth_data": o{}})
	do(alice, "PUT", "room_keys/keys/"+url.PathEscape(room)+"/session?version=1", o{})
	s.SendToDevice(alice.UserID, "ALICE", alice.UserID, "m.test", o{})
	s.PutFile(ServerName+"/file", []byte("a"))
	return s
}

// walk visits everything that can be changed through what it is in.
func walk(t *testing.T, place string, v reflect.Value, visit func(place string, at uintptr)) {
	t.Helper()
	been := make(map[uintptr]bool)
	var into func(place string, v reflect.Value)
	into = func(place string, v reflect.Value) {
		kind := v.Kind()
		if kind == reflect.Interface {
			into(place, v.Elem())
			return
		}
		if kind == reflect.Struct {
			for i := range v.NumField() {
				into(place+"."+v.Type().Field(i).Name, v.Field(i))
			}
			return
		}
		if kind != reflect.Pointer && kind != reflect.Map && kind != reflect.Slice || v.IsNil() {
			return
		}
		if kind == reflect.Slice && (v.Type().Elem().Kind() == reflect.Uint8 || v.Len() == 0) {
			return
		}
		visit(place, v.Pointer())
		if been[v.Pointer()] {
			return
		}
		been[v.Pointer()] = true
		if kind == reflect.Pointer {
			into(place, v.Elem())
			return
		}
		if kind == reflect.Map {
			for at := v.MapRange(); at.Next(); {
				into(place+"[]", at.Value())
			}
			return
		}
		for i := range v.Len() {
			into(place+"[]", v.Index(i))
		}
	}
	into(place, v)
}
