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

	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/testproc"
)

// Every text that a homeserver or a caller must not find again in an error.
const (
	aToken = "syt_token_of_alice"
	aBody  = "body_of_a_request"
	aReply = "text_of_an_answer"
)

// homeserver returns a homeserver that answers with handler, asked as the proxy asks: it
// follows no redirects.
func homeserver(t *testing.T, timeout time.Duration, handler http.HandlerFunc) *Homeserver {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	base, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	client := server.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return NewHomeserver(base, client, timeout)
}

// post makes a call with a body, and returns the error that every failed call must have.
func (h *Homeserver) post(ctx context.Context, t *testing.T, into any) *UpstreamError {
	t.Helper()
	err := h.Call(ctx, secret.NewString(aToken), Request{
		Op: "ask", Method: http.MethodPost, Path: mautrix.ClientURLPath{"v3", "ask"}, Body: map[string]string{"a": aBody}, Result: into,
	})
	return upstreamOf(t, err)
}

// stream does the same with an answer that is read in parts.
func (h *Homeserver) stream(ctx context.Context, t *testing.T, read func(io.Reader) error) *UpstreamError {
	t.Helper()
	err := h.Stream(ctx, secret.NewString(aToken), Request{Op: "ask", Method: http.MethodGet, Path: mautrix.ClientURLPath{"v3", "ask"}}, read)
	return upstreamOf(t, err)
}

func upstreamOf(t *testing.T, err error) *UpstreamError {
	t.Helper()
	if err == nil {
		return nil
	}
	var up *UpstreamError
	if !errors.As(err, &up) {
		t.Fatalf("%v is no error of the homeserver", err)
	}
	for _, text := range []string{aToken, aBody, aReply, "127.0.0.1"} {
		if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, up.Cause), text) {
			t.Errorf("the error quotes %q: %v", text, err)
		}
	}
	return up
}

// What a call's error says of each kind of answer: the homeserver's status and code, how
// long to wait, whether a client must log in again or authenticate, and whether it was a
// homeserver at all (Client-Server API, "Standard error response", "Rate limiting", "Soft
// logout").
func TestErrorsOfCalls(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		status int
		after  string // the header Retry-After
		body   string
		want   UpstreamError
	}{
		{"a Matrix error", 403, "", `{"errcode":"M_FORBIDDEN","error":"` + aReply + `"}`, UpstreamError{Status: 403, ErrCode: "M_FORBIDDEN"}},
		{"the session has ended", 401, "", `{"errcode":"M_UNKNOWN_TOKEN"}`, UpstreamError{Status: 401, ErrCode: "M_UNKNOWN_TOKEN"}},
		{"the token has to be renewed", 401, "", `{"errcode":"M_UNKNOWN_TOKEN","soft_logout":true}`, UpstreamError{Status: 401, ErrCode: "M_UNKNOWN_TOKEN", SoftLogout: true}},
		{"a soft logout that is none", 401, "", `{"errcode":"M_UNKNOWN_TOKEN","soft_logout":"true"}`, UpstreamError{Status: 401, ErrCode: "M_UNKNOWN_TOKEN"}},
		{"too fast, in the body", 429, "", `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":1500}`, UpstreamError{Status: 429, ErrCode: "M_LIMIT_EXCEEDED", RetryAfter: 1500 * time.Millisecond}},
		{"too fast, in the header", 429, "3", `{"errcode":"M_LIMIT_EXCEEDED"}`, UpstreamError{Status: 429, ErrCode: "M_LIMIT_EXCEEDED", RetryAfter: 3 * time.Second}},
		{"the header is the body rounded up", 429, "2", `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":1500}`, UpstreamError{Status: 429, ErrCode: "M_LIMIT_EXCEEDED", RetryAfter: 1500 * time.Millisecond}},
		{"something in front asks for more", 429, "60", `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":1500}`, UpstreamError{Status: 429, ErrCode: "M_LIMIT_EXCEEDED", RetryAfter: time.Minute}},
		{"a wait in the past", 429, "-1", `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":-5}`, UpstreamError{Status: 429, ErrCode: "M_LIMIT_EXCEEDED"}},
		{"a wait without end", 429, "99999999999", `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":2e12}`, UpstreamError{Status: 429, ErrCode: "M_LIMIT_EXCEEDED"}},
		{"a wait that is a date", 503, "Wed, 21 Oct 2015 07:28:00 GMT", `{"errcode":"M_UNKNOWN"}`, UpstreamError{Status: 503, ErrCode: "M_UNKNOWN"}},
		{"an error that is no JSON", 502, "", `<html>` + aReply, UpstreamError{Status: 502}},
		{"a page that is not there", 404, "", `<html>` + aReply, UpstreamError{Status: 404, NotMatrix: true}},
		{"nothing where there should be a page", 405, "", ``, UpstreamError{Status: 405, NotMatrix: true}},
		{"what a homeserver does not have", 404, "", `{"errcode":"M_UNRECOGNIZED"}`, UpstreamError{Status: 404, ErrCode: "M_UNRECOGNIZED"}},
		{"an answer that is cut", 200, "", `{"a":"` + aReply, UpstreamError{Status: 502, Cause: errBadAnswer}},
		{"a member of another kind", 200, "", `{"a":["` + aReply + `"]}`, UpstreamError{Status: 502, Cause: errBadAnswer}},
		{"text after the answer", 200, "", `{"a":"b"} ` + aReply, UpstreamError{Status: 502, Cause: errBadAnswer}},
		{"an answer of nothing", 200, "", ``, UpstreamError{Status: 502, Cause: errBadAnswer}},
	} {
		hs := homeserver(t, 20*time.Second, func(w http.ResponseWriter, _ *http.Request) {
			if tc.after != "" {
				w.Header().Set("Retry-After", tc.after)
			}
			w.WriteHeader(tc.status)
			_, _ = io.WriteString(w, tc.body)
		})
		want := tc.want
		want.Op = "ask"
		var into struct {
			A string `json:"a"`
		}
		if got := hs.post(t.Context(), t, &into); got == nil || *got != want {
			t.Errorf("%s: %+v, want %+v", tc.name, got, want)
		}
		if tc.status < 300 {
			continue
		}
		got := hs.stream(t.Context(), t, func(io.Reader) error { t.Errorf("%s: it is read", tc.name); return nil })
		if got == nil || *got != want {
			t.Errorf("%s, streamed: %+v, want %+v", tc.name, got, want)
		}
	}
}

// Attack: a homeserver, or something in front of it, sends the proxy's own request on to
// another address, to have the token of the device there.
//
// Expected: nobody but the homeserver is asked, and a redirect is an error like others.
func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("%s %s came with %q", r.Method, r.URL.Path, r.Header.Get("Authorization"))
	}))
	defer elsewhere.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		hs := homeserver(t, 20*time.Second, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+"/_matrix/client/v3/ask", status)
		})
		if got := hs.post(t.Context(), t, nil); got == nil || got.Status != status {
			t.Errorf("%d: %v", status, got)
		}
		if got := hs.stream(t.Context(), t, func(io.Reader) error { return nil }); got == nil || got.Status != status {
			t.Errorf("%d, streamed: %v", status, got)
		}
	}
}

// What a homeserver is asked with: the token in its header and nowhere else, and a body that
// was encoded before byte for byte.
func TestHowAHomeserverIsAsked(t *testing.T) {
	t.Parallel()
	const encoded = `{"z": 1.0,  "a":"é"}`
	var got []string
	hs := homeserver(t, 20*time.Second, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got = append(got, fmt.Sprint(r.Method, " ", r.RequestURI, " ", r.Header.Get("Authorization"), " ", r.Header.Get("Content-Type"), " ", string(body)))
		_, _ = io.WriteString(w, `{"a":"b"}`)
	})
	ask := func(body any) {
		t.Helper()
		err := hs.Call(t.Context(), secret.NewString("tok"), Request{
			Op: "ask", Method: http.MethodPut, Path: mautrix.ClientURLPath{"v3", "rooms", "!a/b?c:x"}, Query: map[string]string{"at": "1&2"}, Body: body,
		})
		if err != nil {
			t.Error(err)
		}
	}
	ask(json.RawMessage(encoded))
	ask(map[string]int{"n": 1})
	err := hs.Stream(t.Context(), secret.NewString("tok"), Request{Op: "ask", Method: http.MethodGet, Path: mautrix.ClientURLPath{"v3", "x"}}, func(r io.Reader) error {
		body, err := io.ReadAll(r)
		got = append(got, string(body))
		return err
	})
	if err != nil {
		t.Error(err)
	}
	want := []string{
		"PUT /_matrix/client/v3/rooms/%21a%2Fb%3Fc:x?at=1%262 Bearer tok application/json " + encoded,
		`PUT /_matrix/client/v3/rooms/%21a%2Fb%3Fc:x?at=1%262 Bearer tok application/json {"n":1}`,
		"GET /_matrix/client/v3/x Bearer tok  ",
		`{"a":"b"}`,
	}
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Errorf("request %d of\n%q\nwant\n%q", i, got, want)
		}
	}
}

// A call ends when nobody waits for it any more, or when its time is over, wherever the
// homeserver is with its answer; and the homeserver is told by the end of the connection.
func TestCallsAreGivenUp(t *testing.T) {
	t.Parallel()
	for name, began := range map[string]func(w http.ResponseWriter){
		"nothing came": func(http.ResponseWriter) {},
		"the header came": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(http.StatusOK)
		},
		"half of the answer came": func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"a":"`) },
		"half of an error came": func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"errcode":"M_`)
		},
		"more than a small answer came": func(w http.ResponseWriter) {
			_, _ = io.WriteString(w, `{"a":"`)
			_, _ = io.Copy(w, io.LimitReader(letters(strings.Repeat("x", 64<<10)), maxAnswer/2))
		},
	} {
		for _, how := range []string{"called", "streamed"} {
			t.Run(strings.ReplaceAll(name+", "+how, " ", "_"), func(t *testing.T) {
				t.Parallel()
				begun, told := make(chan struct{}, 2), make(chan struct{}, 2)
				answer := func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body) // only then is the end of the connection seen
					began(w)
					_ = http.NewResponseController(w).Flush()
					begun <- struct{}{}
					<-r.Context().Done()
					told <- struct{}{}
				}
				ask := func(ctx context.Context, hs *Homeserver) *UpstreamError {
					if how == "called" {
						return hs.post(ctx, t, new(map[string]string))
					}
					return hs.stream(ctx, t, func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err })
				}
				ctx, cancel := context.WithCancel(t.Context())
				go func() { <-begun; cancel() }()
				got := ask(ctx, homeserver(t, 20*time.Second, answer))
				<-told
				late := ask(t.Context(), homeserver(t, 100*time.Millisecond, answer))
				<-told
				// An answer that had begun with an error still has its status.
				if strings.Contains(name, "error") {
					if got == nil || late == nil || got.ErrCode != "" || late.ErrCode != "" {
						t.Errorf("given up: %v, too late: %v", got, late)
					}
					return
				}
				if got == nil || !errors.Is(got, context.Canceled) || errors.Is(got, context.DeadlineExceeded) {
					t.Errorf("given up: %v", got)
				}
				if late == nil || !errors.Is(late, context.DeadlineExceeded) || errors.Is(late, context.Canceled) {
					t.Errorf("too late: %v", late)
				}
			})
		}
	}
}

// A large answer that waits for its turn is given up with its request, and so is one that
// has its turn, or that waits for a place among all accounts; what others wait for is free
// again.
func TestLargeAnswersAreGivenUp(t *testing.T) {
	t.Parallel()
	hs := homeserver(t, 20*time.Second, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, io.LimitReader(letters(strings.Repeat("x", 64<<10)), maxAnswer+100_000))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	took := make(chan struct{}, 8)
	order := &locks.Order{Takes: func(locks.Rank) { took <- struct{}{} }, Gives: func(locks.Rank) {}}
	hs.large.accounts.Place = order.At(locks.RankLeaf)
	ask := func() (giveUp func() error) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- hs.Call(ctx, secret.NewString(aToken), Request{Op: "ask", Method: http.MethodGet, Path: mautrix.ClientURLPath{"x"}, Large: true, User: "@alice:hs"})
		}()
		<-took
		return func() error { cancel(); return <-done }
	}
	has := func(places int) {
		t.Helper()
		err := testproc.Await(t.Context(), func(context.Context) error {
			if n := len(hs.large.all); n != places {
				return fmt.Errorf("%d places are taken", n)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	holds := ask()
	has(1)
	waits := ask()
	if err := waits(); !errors.Is(err, context.Canceled) {
		t.Errorf("who waits for the turn: %v", err)
	}
	if err := holds(); !errors.Is(err, context.Canceled) {
		t.Errorf("who has the turn: %v", err)
	}
	if len(hs.large.all) != 0 || !hs.large.accounts.Idle() {
		t.Fatal("places are left")
	}
	var others []func()
	for i := range largeAtOnce {
		give, err := hs.large.acquire(t.Context(), id.UserID(fmt.Sprint("@other", i)))
		if err != nil {
			t.Fatal(err)
		}
		<-took
		others = append(others, give)
	}
	waits = ask()
	if err := waits(); !errors.Is(err, context.Canceled) {
		t.Errorf("who waits for a place: %v", err)
	}
	for _, give := range others {
		give()
	}
	if len(hs.large.all) != 0 || !hs.large.accounts.Idle() {
		t.Error("places are left")
	}
}

// A homeserver that is not there, and one that ends the connection, gave no answer. Who
// reads what is streamed can fail as well, and says himself how.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	aborts := homeserver(t, 20*time.Second, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	cuts := homeserver(t, 20*time.Second, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, `{"a":`)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	gone := homeserver(t, 20*time.Second, nil)
	gone.base = &url.URL{Scheme: "http", Host: "127.0.0.1:1"}
	for name, hs := range map[string]*Homeserver{"not there": gone, "ends the connection": aborts} {
		want := UpstreamError{Op: "ask", Cause: errNoAnswer}
		if got := hs.post(t.Context(), t, nil); got == nil || *got != want {
			t.Errorf("%s: %+v", name, got)
		}
		if got := hs.stream(t.Context(), t, func(io.Reader) error { return nil }); got == nil || *got != want {
			t.Errorf("%s, streamed: %+v", name, got)
		}
	}
	if got := cuts.post(t.Context(), t, nil); got == nil || got.Status != http.StatusBadGateway || !errors.Is(got, errBadAnswer) {
		t.Errorf("an answer that ends early: %+v", got)
	}
	errRead := errors.New("the reader does not like it")
	hs := homeserver(t, 20*time.Second, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{}`) })
	err := hs.Stream(t.Context(), secret.NewString(aToken), Request{Op: "read it", Method: http.MethodGet, Path: mautrix.ClientURLPath{"x"}}, func(io.Reader) error { return errRead })
	if !errors.Is(err, errRead) || !strings.HasPrefix(err.Error(), "read it: ") || Status(err) != 0 {
		t.Errorf("a reader's error: %v", err)
	}
	err = cuts.Stream(t.Context(), secret.NewString(aToken), Request{Op: "read it", Method: http.MethodGet, Path: mautrix.ClientURLPath{"x"}}, func(r io.Reader) error {
		_, err := io.ReadAll(r)
		return err
	})
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a stream that ends early: %v", err)
	}
	bad := Request{Op: "ask", Method: "NO METHOD", Path: mautrix.ClientURLPath{"x"}}
	for _, err := range []error{hs.Call(t.Context(), secret.String{}, bad), hs.Stream(t.Context(), secret.String{}, bad, nil)} {
		if got := upstreamOf(t, err); got == nil || got.Status != 0 {
			t.Errorf("a request that cannot be made: %v", err)
		}
	}
}
