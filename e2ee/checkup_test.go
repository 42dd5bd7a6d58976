package e2ee_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// links returns how the links of a checkup stand, and those that are not in order.
func links(t *testing.T, d *e2ee.Device, talk bool) (states string, bad map[string]e2ee.CheckupLink) {
	t.Helper()
	all, err := d.Checkup(t.Context(), talk)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	bad = make(map[string]e2ee.CheckupLink)
	for _, l := range all {
		b.WriteString(l.Name + " " + string(l.State) + "\n")
		if l.Message == "" || (l.State == e2ee.CheckupCareful || l.State == e2ee.CheckupBroken) && (l.Why == "" || l.Hint == "") {
			t.Errorf("a link says too little: %+v", l)
		}
		if l.State != e2ee.CheckupOK {
			bad[l.Name] = l
		}
	}
	return b.String(), bad
}

// Every link of a device that is well is in order, also that it can talk with itself, though the
// homeserver shows neither its members nor a message at once; and the room that was made for that is left.
func TestCheckup(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	r := newRig(t, hs, nil)
	session := hs.Login("bob", "BOB")
	d := r.device(session)
	ready(t, d)
	var looks, lists atomic.Int32
	hs.Intercept(liar.Is(http.MethodGet, "/members"), func(_ *liar.Request, ask func() liar.Reply) liar.Reply {
		if lists.Add(1) == 1 {
			return liar.Reply{Status: http.StatusOK, Body: map[string]any{"chunk": []any{}}}
		}
		return ask()
	})
	hs.Intercept(liar.Is(http.MethodGet, "/event/"), func(_ *liar.Request, ask func() liar.Reply) liar.Reply {
		if looks.Add(1) <= 2 {
			return liar.Reply{Status: http.StatusNotFound, Body: map[string]string{"errcode": "M_NOT_FOUND"}}
		}
		return ask()
	})
	states, _ := links(t, d, true)
	want := "token ok\ndevice ok\nkey_ids ok\nidentity ok\nsignature ok\nsecret_storage ok\nbackup ok\none_time_keys ok\nsync ok\nown_devices ok\ntalk ok\n"
	if states != want {
		all, _ := json.MarshalIndent(must(d.Checkup(t.Context(), false)), "", " ")
		t.Errorf("got\n%s\n%s", states, all)
	}
	var joined struct {
		Rooms []string `json:"joined_rooms"`
	}
	call(t, hs, session, http.MethodGet, "joined_rooms", nil, &joined)
	if len(joined.Rooms) != 0 {
		t.Errorf("it is still in %v", joined.Rooms)
	}
	for _, req := range hs.Requests(liar.Is(http.MethodPut, "/send/")) {
		if strings.Contains(string(req.Body), "tests whether") || !strings.Contains(req.Path, "m.room.encrypted") {
			t.Errorf("it was sent in clear: %s", req.Path)
		}
	}
}

func must[T any](v T, _ error) T { return v }

// What is broken is found, and it is named where it is broken.
func TestCheckupNamesTheFault(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fault  func(t *testing.T, hs *liar.Server, s liar.Session)
		link   string
		state  e2ee.CheckupLink
		others bool // other links may be concerned
	}{
		"another device is not confirmed": {
			fault: func(t *testing.T, hs *liar.Server, _ liar.Session) {
				other := newRig(t, hs, nil).device(hs.Login("bob", "OTHER"))
				settle(t, other)
			},
			link: "own_devices", state: e2ee.CheckupLink{State: e2ee.CheckupCareful, Code: "other_devices_not_signed"},
		},
		"the homeserver refuses the token": {
			fault: func(_ *testing.T, hs *liar.Server, s liar.Session) {
				hs.Intercept(liar.Of(s.UserID, liar.Is("", "")), liar.Fail(http.StatusForbidden, "M_FORBIDDEN"))
			},
			link: "token", state: e2ee.CheckupLink{State: e2ee.CheckupBroken}, others: true,
		},
		"the identity was published with padded key IDs": {
			fault: func(_ *testing.T, hs *liar.Server, s liar.Session) {
				hs.Intercept(liar.Of(s.UserID, liar.Is(http.MethodPost, "/keys/query$")), func(_ *liar.Request, ask func() liar.Reply) liar.Reply {
					reply := ask()
					raw, _ := json.Marshal(reply.Body)
					key := hs.CrossSigningKey(s.UserID, "user_signing")
					reply.Body = json.RawMessage(strings.ReplaceAll(string(raw), "ed25519:"+key, "ed25519:"+key+"="))
					return reply
				})
			},
			link: "key_ids", state: e2ee.CheckupLink{State: e2ee.CheckupBroken, Code: "odd_key_ids"}, others: true,
		},
		"syncs fail": {
			fault: func(_ *testing.T, hs *liar.Server, _ liar.Session) {
				hs.Intercept(liar.Is(http.MethodGet, "/sync$"), liar.Fail(http.StatusBadGateway, "M_UNKNOWN"))
			},
			link: "sync", state: e2ee.CheckupLink{State: e2ee.CheckupBroken}, others: true, // nothing is sent either when the last sync is too old
		},
		"messages cannot be sent": {
			fault: func(_ *testing.T, hs *liar.Server, _ liar.Session) {
				hs.Intercept(liar.Is(http.MethodPut, "/send/m.room.encrypted/"), liar.Fail(http.StatusForbidden, "M_FORBIDDEN"))
			},
			link: "talk", state: e2ee.CheckupLink{State: e2ee.CheckupBroken},
		},
		"the backup is gone": {
			fault: func(_ *testing.T, hs *liar.Server, _ liar.Session) {
				hs.Intercept(liar.Is(http.MethodGet, "/room_keys/version"), liar.Fail(http.StatusNotFound, "M_NOT_FOUND"))
			},
			link: "backup", state: e2ee.CheckupLink{State: e2ee.CheckupCareful, Code: "backup_broken"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hs := liar.New(t)
			r := newRig(t, hs, nil)
			session := hs.Login("bob", "BOB")
			d := r.device(session)
			ready(t, d)
			test.fault(t, hs, session)
			_, bad := links(t, d, true)
			got := bad[test.link]
			if got.State != test.state.State || test.state.Code != "" && got.Code != test.state.Code {
				t.Errorf("the link is %+v", got)
			}
			if len(bad) != 1 && !test.others {
				t.Errorf("more links are not in order: %+v", bad)
			}
		})
	}
}
