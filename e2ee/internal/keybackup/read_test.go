package keybackup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
)

// entries reads all keys of a download, or of one room of it.
func entries(body io.Reader, oneRoom bool) (got []string, err error) {
	if oneRoom {
		err = ReadRoom(body, func(session id.SessionID, raw json.RawMessage) error {
			got = append(got, fmt.Sprint(session, " ", string(raw)))
			return nil
		})
		return got, err
	}
	err = Read(body, func(ref store.SessionRef, raw json.RawMessage) error {
		got = append(got, fmt.Sprint(ref.RoomID, " ", ref.SessionID, " ", string(raw)))
		return nil
	})
	return got, err
}

// A download of GET /room_keys/keys, or of one room, is read key by key, whatever stands
// beside the keys and however the network cuts it.
func TestDownloadsAreRead(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("s", wire.MaxIDLength+1)
	for _, tc := range []struct {
		name, body string
		oneRoom    bool
		want       []string
	}{
		{"all rooms", `{"rooms":{"!a:x":{"sessions":{"s1":{"a": 1.0},"s2":7}},"!b:x":{"sessions":{"s1":null}}}}`, false, []string{`!a:x s1 {"a": 1.0}`, "!a:x s2 7", "!b:x s1 null"}},
		{"one room", `{"sessions":{"s1":{"a": 1.0},"s2":[7]}}`, true, []string{`s1 {"a": 1.0}`, "s2 [7]"}},
		{"more members", `{"etag":"1","rooms":{"!a:x":{"more":{"sessions":{"no":1}},"sessions":{"s":1},"z":[]}},"count":[{"rooms":{}}]}`, false, []string{"!a:x s 1"}},
		{"more members in one room", `{"etag":{"sessions":{"no":1}},"sessions":{"s":1},"z":1}`, true, []string{"s 1"}},
		{"names with escapes", `{"rooms":{"!\u0061:x":{"sessions":{"s\/1":1}}}}`, false, []string{"!a:x s/1 1"}},
		{"names that are too long", `{"rooms":{"!a:x":{"sessions":{"` + long + `":1,"` + long[1:] + `":2}},"!` + long + `":{"sessions":{"s":3}}}}`, false, []string{"!a:x " + long[1:] + " 2"}},
		{"no keys", `{"rooms":{}}`, false, nil},
		{"a room without keys", `{"rooms":{"!a:x":{}}}`, false, nil},
		{"nothing of a room", `{}`, true, nil},
		{"nothing", `{}`, false, nil},
	} {
		for how, body := range map[string]io.Reader{"whole": strings.NewReader(tc.body), "by bytes": iotest.OneByteReader(strings.NewReader(tc.body))} {
			if got, err := entries(body, tc.oneRoom); err != nil || !slices.Equal(got, tc.want) {
				t.Errorf("%s, %s: %q, %v; want %q", tc.name, how, got, err, tc.want)
			}
		}
	}
}

// Attack: a homeserver answers with a download that does not end, or is not what it should
// be, so that a restore counts it as whole.
//
// Expected: an error that says so; what came before is not lost.
func TestDownloadsThatBreak(t *testing.T) {
	t.Parallel()
	const whole = `{"rooms":{"!a:x":{"sessions":{"s1":1,"s2":2}}}}`
	for cut := range len(whole) {
		if got, err := entries(strings.NewReader(whole[:cut]), false); err == nil {
			t.Errorf("%s is whole, with %q", whole[:cut], got)
		}
	}
	room := whole[len(`{"rooms":{"!a:x":`) : len(whole)-2]
	for cut := range len(room) {
		if got, err := entries(strings.NewReader(room[:cut]), true); err == nil {
			t.Errorf("%s is whole, with %q", room[:cut], got)
		}
	}
	for _, body := range []string{`[]`, `"rooms"`, `null`, `{"rooms":[]}`, `{"rooms":{"!a:x":7}}`, `{"rooms":{"!a:x":{"sessions":[]}}}`, `{"rooms":{"!a:x":{"sessions":null}}}`, `<html>`, `{rooms:{}}`} {
		if got, err := entries(strings.NewReader(body), false); !errors.Is(err, strictjson.ErrMalformed) {
			t.Errorf("%s is a download, with %q, %v", body, got, err)
		}
	}
	// A name twice would let one entry hide another.
	for _, body := range []string{`{"rooms":{"!a:x":{"sessions":{"s":1,"s":2}}}}`, `{"rooms":{"!a:x":{},"!a:x":{}}}`, `{"rooms":{},"rooms":{}}`} {
		if got, err := entries(strings.NewReader(body), false); err == nil {
			t.Errorf("%s is read as %q", body, got)
		}
	}
}

// What breaks a download in the middle is what the reader of it is told: the network, the
// store that what is read goes to, or the request that it is read for.
func TestDownloadsThatAreBroken(t *testing.T) {
	t.Parallel()
	errNetwork, errStore := errors.New("the network broke"), errors.New("the store is full")
	const begun = `{"rooms":{"!a:x":{"sessions":{"s1":1,`
	for _, oneRoom := range []bool{false, true} {
		text := begun
		if oneRoom {
			text = begun[len(`{"rooms":{"!a:x":`):]
		}
		got, err := entries(io.MultiReader(strings.NewReader(text), iotest.ErrReader(errNetwork)), oneRoom)
		if err == nil || len(got) != 1 {
			t.Errorf("one room %v: %q, %v", oneRoom, got, err)
		}
	}
	seen := 0
	err := Read(strings.NewReader(`{"rooms":{"!a:x":{"sessions":{"s1":1,"s2":2,"s3":3}}}}`), func(store.SessionRef, json.RawMessage) error {
		if seen++; seen == 2 {
			return errStore
		}
		return nil
	})
	if !errors.Is(err, errStore) || seen != 2 {
		t.Errorf("after the error %d keys were read, %v", seen, err)
	}
}

// Attack: one key of a download is as large as memory.
//
// Expected: an error before it is in memory; a download of many keys may be as large.
func TestLargeEntriesOfADownload(t *testing.T) {
	t.Parallel()
	endless := func(head string) *counted {
		return &counted{r: io.MultiReader(strings.NewReader(head), io.LimitReader(letters{}, 1<<40))}
	}
	for name, tc := range map[string]struct {
		head    string
		oneRoom bool
	}{
		"a key":              {`{"rooms":{"!a:x":{"sessions":{"s1":1,"s2":"`, false},
		"a key of one room":  {`{"sessions":{"s1":1,"s2":"`, true},
		"the name of a key":  {`{"rooms":{"!a:x":{"sessions":{"s1":1,"`, false},
		"the name of a room": {`{"rooms":{"`, false},
		"another member":     {`{"more":"`, false},
	} {
		body := endless(tc.head)
		if got, err := entries(body, tc.oneRoom); err == nil || body.n > 2*maxBackedKey+64<<10 {
			t.Errorf("%s: %d bytes were read, %d keys, %v", name, body.n, len(got), err)
		}
	}
	var many strings.Builder
	many.WriteString(`{"rooms":{"!a:x":{"sessions":{"s0":0`)
	large := strings.Repeat("k", maxBackedKey/4)
	for i := range 16 {
		fmt.Fprintf(&many, `,"s%d":"%s"`, i+1, large)
	}
	if got, err := entries(strings.NewReader(many.String()+`}}}}`), false); err != nil || len(got) != 17 {
		t.Errorf("%d keys, %v", len(got), err)
	}
}

type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// counted counts what is read.
type counted struct {
	r io.Reader
	n int
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}
