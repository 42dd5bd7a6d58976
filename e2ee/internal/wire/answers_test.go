package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
)

// answering returns a homeserver that gives answers of a size: /said/N says so before,
// /chunked/N does not. What it has begun to answer, and has not ended, is in open.
func answering(t *testing.T) (*Homeserver, chan struct{}) {
	t.Helper()
	begun := make(chan struct{}, 64)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var how string
		var size int64
		if _, err := fmt.Sscanf(strings.ReplaceAll(r.URL.Path, "/", " "), " _matrix client %s %d", &how, &size); err != nil {
			t.Errorf("%s: %v", r.URL.Path, err)
		}
		if how == "said" {
			w.Header().Set("Content-Length", fmt.Sprint(size))
		}
		begun <- struct{}{}
		_, _ = io.WriteString(w, `{"a":"`)
		_, _ = io.Copy(w, io.LimitReader(letters(strings.Repeat("x", 64<<10)), size-8))
		_, _ = io.WriteString(w, `"}`)
	}))
	t.Cleanup(server.Close)
	base, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	return NewHomeserver(base, server.Client(), 20*time.Second), begun
}

// letters has no end. It is copied, because the race detector looks at each single write.
type letters string

func (l letters) Read(p []byte) (int, error) { return copy(p, l), nil }

func (h *Homeserver) get(ctx context.Context, user id.UserID, how string, size int64, large bool) (int, error) {
	var into struct {
		A json.RawMessage `json:"a"`
	}
	err := h.Call(ctx, secret.NewString("token"), Request{
		Op: "ask", Method: http.MethodGet, Path: mautrix.ClientURLPath{how, size}, Result: &into, Large: large, User: user,
	})
	return len(into.A), err
}

// Attack: a homeserver answers a question of the proxy's own with more than there is
// memory for, with or without saying so before.
//
// Expected: it is read up to a limit only, which says in words what happened; what may be
// large, because it grows with an account, has a larger limit.
func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	hs, _ := answering(t)
	for _, test := range []struct {
		size  int64
		large bool
		fits  bool
	}{
		{maxAnswer, false, true},
		{maxAnswer + 1, false, false},
		{maxAnswer + 1, true, true},
		{maxLargeAnswer, true, true},
		{maxLargeAnswer + 1, true, false},
		{1 << 40, true, false},
	} {
		for _, how := range []string{"said", "chunked"} {
			got, err := hs.get(t.Context(), "@alice:hs", how, test.size, test.large)
			var up *UpstreamError
			switch {
			case test.fits && (err != nil || int64(got) != test.size-6):
				t.Errorf("%s %d bytes: %d came, %v", how, test.size, got, err)
			case !test.fits && (!errors.Is(err, ErrAnswerTooLarge) || !errors.As(err, &up) || up.Status != http.StatusBadGateway || !strings.Contains(err.Error(), "too large")):
				t.Errorf("%s %d bytes: %v", how, test.size, err)
			}
		}
	}
}

// Attack: one account has its devices ask for answers that are as large as may be, all at
// the same time, so that they are in memory together.
//
// Expected: of an account one is taken in at a time, of all accounts a few; the others
// wait, and what is small does not.
func TestLargeAnswersTakeTurns(t *testing.T) {
	t.Parallel()
	hs, begun := answering(t)
	give, err := hs.large.acquire(t.Context(), "@alice:hs")
	if err != nil {
		t.Fatal(err)
	}
	ask := func(user id.UserID, size int64) <-chan error {
		done := make(chan error, 1)
		go func() { _, err := hs.get(t.Context(), user, "chunked", size, true); done <- err }()
		<-begun
		return done
	}
	second := ask("@alice:hs", maxAnswer+100_000)
	if err := <-ask("@alice:hs", maxAnswer); err != nil {
		t.Errorf("a small one of the same account: %v", err)
	}
	if err := <-ask("@bob:hs", maxAnswer+100_000); err != nil {
		t.Errorf("a large one of another account: %v", err)
	}
	var others []func()
	for i := range largeAtOnce - 1 {
		other, err := hs.large.acquire(t.Context(), id.UserID(fmt.Sprintf("@other%d:hs", i)))
		if err != nil {
			t.Fatal(err)
		}
		others = append(others, other)
	}
	third := ask("@carol:hs", maxAnswer+100_000)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := hs.large.acquire(gone, "@dave:hs"); !errors.Is(err, context.Canceled) {
		t.Errorf("who does not wait: %v", err)
	}
	select {
	case err := <-second:
		t.Errorf("a second one of the same account was taken in: %v", err)
	case err := <-third:
		t.Errorf("one more than all: %v", err)
	default:
	}
	give()
	if err := errors.Join(<-second, <-third); err != nil {
		t.Errorf("those that waited: %v", err)
	}
	for _, other := range others {
		other()
	}
	if len(hs.large.all) != 0 || !hs.large.accounts.Idle() {
		t.Error("places are left")
	}
}
