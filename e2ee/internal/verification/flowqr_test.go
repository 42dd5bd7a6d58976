package verification

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/e2ee/internal/core"
)

// Every way to scan: of two users and of two devices, whoever shows the code.
func TestScan(t *testing.T) {
	t.Parallel()
	for _, of := range []func(*testing.T) *world{twoUsers, twoDevices} {
		for _, aShows := range []bool{true, false} {
			w := of(t)
			w.request(w.a)
			w.do(w.b, Flow.Accept)
			shows, scans := w.a, w.b
			if !aShows {
				shows, scans = w.b, w.a
			}
			v := shows.flow.View()
			if len(v.QR) == 0 || !v.CanScan || !v.CanEmoji {
				t.Fatalf("%s shows %+v", shows.us.Device, v)
			}
			w.do(scans, scan(t, v.QR))
			if shows.flow.state != Scanned || scans.flow.state != Confirmed || shows.got != nil || scans.got != nil {
				t.Fatalf("%s is %s, %s is %s", shows.us.Device, shows.flow.state, scans.us.Device, scans.flow.state)
			}
			w.do(shows, scanned(true))
			w.want(Done, Done)
			wantA := &Target{User: w.b.us.User, Master: w.b.us.Master}
			wantB := &Target{User: w.a.us.User, Master: w.a.us.Master}
			if w.a.us.User == w.b.us.User {
				wantA.Device, wantA.Key, wantB.Adopt = "NEW", w.b.us.Ed25519, true
			}
			if !cmp.Equal(w.a.got, wantA) || !cmp.Equal(w.b.got, wantB) {
				t.Errorf("recorded are %+v and %+v, want %+v and %+v", w.a.got, w.b.got, wantA, wantB)
			}
		}
	}
}

// The form of a code (Client-Server API, "QR code format"), byte by byte.
func TestCodeForm(t *testing.T) {
	t.Parallel()
	c := &Code{Mode: modeTrusted, Txn: "txn", First: bytes.Repeat([]byte{1}, 32), Second: bytes.Repeat([]byte{2}, 32), Secret: []byte("a secret")}
	raw := c.Encode()
	want := append([]byte("MATRIX\x02\x01\x00\x03txn"), append(append(bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)...), "a secret"...)...)
	if !bytes.Equal(raw, want) {
		t.Errorf("%x, want %x", raw, want)
	}
	if got, err := ReadCode(raw); err != nil || !cmp.Equal(got, c) {
		t.Errorf("read again: %+v, %v", got, err)
	}
	for i := range raw {
		if i < len(raw)-minSecret+1 {
			if _, err := ReadCode(raw[:i]); !errors.Is(err, core.ErrNotACode) {
				t.Errorf("the first %d bytes are read: %v", i, err)
			}
		}
	}
	for _, other := range []string{"", "https://matrix.to/#/@bob:hs", "MATRIX\x01\x00", "MATRIX\x02\x03\x00\x01x" + string(make([]byte, 80)), "matrix\x02\x00"} {
		if _, err := ReadCode([]byte(other)); !errors.Is(err, core.ErrNotACode) {
			t.Errorf("%q is read: %v", other, err)
		}
	}
}

// Any bytes are a code that is written the same again, or none.
func FuzzReadCode(f *testing.F) {
	f.Add((&Code{Txn: "txn", First: make([]byte, 32), Second: make([]byte, 32), Secret: make([]byte, 16)}).Encode())
	f.Add([]byte("MATRIX\x02"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if c, err := ReadCode(raw); err == nil && !bytes.Equal(c.Encode(), raw) {
			t.Errorf("%x is written as %x", raw, c.Encode())
		}
	})
}

// Bad codes of people: of another verification, of something else, or not where a code is asked
// for. Nothing is changed by them.
func TestWrongCodes(t *testing.T) {
	t.Parallel()
	w, other := twoUsers(t), twoUsers(t)
	for _, x := range []*world{w, other} {
		x.request(x.a)
		x.do(x.b, Flow.Accept)
	}
	elsewhere := *other.a
	elsewhere.flow.txn = "another"
	elsewhere.flow.makeCode(other.known(other.a))
	c, err := ReadCode(elsewhere.flow.qr.shown)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.b.flow.Scan(w.known(w.b), c); !errors.Is(err, core.ErrOtherCode) || w.b.flow.state != Ready {
		t.Errorf("the code of another verification: %v", err)
	}
	w.do(w.a, Flow.Emoji)
	c, err = ReadCode(other.a.flow.qr.shown)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.b.flow.Scan(w.known(w.b), c); !errors.Is(err, core.ErrVerificationStep) {
		t.Errorf("a code while emoji are compared: %v", err)
	}
}
