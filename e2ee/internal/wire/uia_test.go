package wire

import (
	"errors"
	"io"
	"net/http"
	"testing"
	"time"
)

// Which 401 asks for user-interactive authentication, whether the proxy can do it with the
// account's password alone, and what a client is told otherwise (Client-Server API,
// "User-Interactive Authentication API"; requirement 12.6 for pages of OAuth).
func TestChallenges(t *testing.T) {
	t.Parallel()
	const password, page = "m.login.password", "https://hs.example/reset"
	params := func(stage, url string) string { return `"params":{"` + stage + `":{"url":` + url + `}}` }
	for _, tc := range []struct {
		name       string
		body       string
		asks       bool
		password   bool
		stage, url string
	}{
		{"a password", `{"session":"s","flows":[{"stages":["m.login.password"]}]}`, true, true, password, ""},
		{"a password or a page", `{"flows":[{"stages":["m.login.sso"]},{"stages":["m.login.password"]}],` + params("m.login.sso", `"`+page+`"`) + `}`, true, true, "m.login.sso", page},
		{"the page of a later flow", `{"flows":[{"stages":["m.login.password"]},{"stages":["m.oauth"]}],` + params("m.oauth", `"`+page+`"`) + `}`, true, true, "m.oauth", page},
		{"a password and more", `{"flows":[{"stages":["m.login.password","m.login.email.identity"]}]}`, true, false, password, ""},
		{"what comes after a password", `{"completed":["m.login.password"],"flows":[{"stages":["m.login.password","m.login.dummy"]}]}`, true, false, "m.login.dummy", ""},
		{"all is done", `{"completed":["m.login.password"],"flows":[{"stages":["m.login.password"]}]}`, true, true, "", ""},
		{"OAuth", `{"flows":[{"stages":["m.oauth"]}],` + params("m.oauth", `"`+page+`"`) + `}`, true, false, "m.oauth", page},
		{"OAuth before it had a name", `{"flows":[{"stages":["org.matrix.cross_signing_reset"]}],` + params("org.matrix.cross_signing_reset", `"`+page+`"`) + `}`, true, false, "org.matrix.cross_signing_reset", page},
		{"the page of a stage that is not next", `{"flows":[{"stages":["a","m.oauth"]}],` + params("m.oauth", `"`+page+`"`) + `}`, true, false, "a", ""},
		{"a page that runs", `{"flows":[{"stages":["m.oauth"]}],` + params("m.oauth", `"javascript:alert(1)"`) + `}`, true, false, "m.oauth", ""},
		{"a page that runs and has a host", `{"flows":[{"stages":["m.oauth"]}],` + params("m.oauth", `"javascript://hs/%0aalert(1)"`) + `}`, true, false, "m.oauth", ""},
		{"a page that is a file", `{"flows":[{"stages":["m.oauth"]}],` + params("m.oauth", `"file:///etc/passwd"`) + `}`, true, false, "m.oauth", ""},
		{"a page without a host", `{"flows":[{"stages":["m.oauth"]}],` + params("m.oauth", `"https:reset"`) + `}`, true, false, "m.oauth", ""},
		{"a page that is no URL", `{"flows":[{"stages":["m.oauth"]}],` + params("m.oauth", `"https://a b"`) + `}`, true, false, "m.oauth", ""},
		{"a page that is no text", `{"flows":[{"stages":["m.oauth"]}],` + params("m.oauth", `["https://hs"]`) + `}`, true, false, "m.oauth", ""},
		{"a flow without stages", `{"flows":[{"stages":[]}]}`, true, false, "", ""},
		{"no flows", `{"session":"s","flows":[]}`, false, false, "", ""},
		{"a token that is not known", `{"errcode":"M_UNKNOWN_TOKEN"}`, false, false, "", ""},
		{"flows that are none", `{"flows":"m.login.password"}`, false, false, "", ""},
		{"no JSON", `<html>`, false, false, "", ""},
		{"nothing", ``, false, false, "", ""},
	} {
		c := readChallenge([]byte(tc.body))
		if (c != nil) != tc.asks {
			t.Errorf("%s: it asks: %v", tc.name, c != nil)
			continue
		}
		if c == nil {
			continue
		}
		need := c.Needed()
		if c.AcceptsPassword() != tc.password || need.Stage != tc.stage || need.URL != tc.url || string(need.Body) != tc.body {
			t.Errorf("%s: password %v, stage %q, page %q, body %s", tc.name, c.AcceptsPassword(), need.Stage, need.URL, need.Body)
		}
		if need.Error() == "" {
			t.Errorf("%s: the error says nothing", tc.name)
		}
	}
}

// A challenge is read from a 401 and from nothing else: a homeserver that sends one with
// another status must not have the password sent to it.
func TestChallengesComeWith401(t *testing.T) {
	t.Parallel()
	for _, status := range []int{200, 400, 401, 403, 500} {
		hs := homeserver(t, 20*time.Second, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, `{"session":"s","completed":["a"],"flows":[{"stages":["m.login.password"]}]}`)
		})
		up := hs.post(t.Context(), t, nil)
		if status == http.StatusOK {
			if up != nil {
				t.Errorf("%d: %v", status, up)
			}
			continue
		}
		if up == nil || (up.UIA != nil) != (status == http.StatusUnauthorized) {
			t.Fatalf("%d: %+v", status, up)
		}
		if up.UIA != nil && (up.UIA.Session != "s" || len(up.UIA.Completed) != 1 || !up.UIA.AcceptsPassword()) {
			t.Errorf("%d: %+v", status, up.UIA)
		}
	}
}

// What an administrator reads of a homeserver's error: the operation, and what happened.
func TestWhatUpstreamErrorsSay(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]*UpstreamError{
		"ask: homeserver did not answer: no answer":                            {Op: "ask", Cause: errNoAnswer},
		"ask: homeserver answered, but: the homeserver's answer is too large":  {Op: "ask", Status: 502, Cause: ErrAnswerTooLarge},
		"ask: what answered with 404 is no Matrix homeserver":                  {Op: "ask", Status: 404, NotMatrix: true},
		"ask: homeserver answered 403 M_FORBIDDEN":                             {Op: "ask", Status: 403, ErrCode: "M_FORBIDDEN"},
		"ask: homeserver answered, but: the answer could not be read":          {Op: "ask", Status: 502, Cause: errBadAnswer, NotMatrix: true},
		"ask: homeserver did not answer: the homeserver's answer is too large": {Op: "ask", Cause: ErrAnswerTooLarge, NotMatrix: true},
	} {
		if err.Error() != want || Status(err) != err.Status || !errors.Is(err, err.Cause) && err.Cause != nil {
			t.Errorf("%q, want %q", err, want)
		}
		if wrapped := errors.Join(errors.New("more"), err); Status(wrapped) != err.Status {
			t.Errorf("%q: its status is %d when it is wrapped", want, Status(wrapped))
		}
	}
	if Status(nil) != 0 || Status(errNoAnswer) != 0 {
		t.Error("an error of another kind has a status")
	}
}
