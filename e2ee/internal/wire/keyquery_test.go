package wire

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/trustcache"
)

func query(t *testing.T, answer http.HandlerFunc, users ...id.UserID) (*trustcache.QueryResult, error) {
	t.Helper()
	q := KeyQuery{Homeserver: homeserver(t, 20*time.Second, answer), Token: secret.NewString(aToken), User: "@alice:hs"}
	return q.QueryKeys(t.Context(), users)
}

// What /keys/query is asked with: all devices of each user, and a time for other servers
// (requirement 3.11).
func TestKeyQueriesAsk(t *testing.T) {
	t.Parallel()
	for want, users := range map[string][]id.UserID{
		`{"device_keys":{"@a:x":[],"@b:y":[]},"timeout":15000}`: {"@b:y", "@a:x", "@b:y"},
		`{"device_keys":{},"timeout":15000}`:                    nil,
	} {
		_, err := query(t, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil || string(body) != want || r.Method != http.MethodPost || r.URL.Path != "/_matrix/client/v3/keys/query" {
				t.Errorf("%s %s: %s, %v; want %s", r.Method, r.URL.Path, body, err, want)
			}
			_, _ = io.WriteString(w, `{}`)
		}, users...)
		if err != nil {
			t.Error(err)
		}
	}
}

// The token of an application service asks as the user whom it acts as.
func TestKeyQueriesOfApplicationServices(t *testing.T) {
	t.Parallel()
	for asserted, want := range map[bool]string{true: "user_id=%40alice%3Ahs", false: ""} {
		q := KeyQuery{Token: secret.NewString(aToken), User: "@alice:hs", Asserted: asserted}
		q.Homeserver = homeserver(t, 20*time.Second, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.RawQuery != want {
				t.Errorf("asked with %q, want %q", r.URL.RawQuery, want)
			}
			_, _ = io.WriteString(w, `{}`)
		})
		if _, err := q.QueryKeys(t.Context(), []id.UserID{"@bob:hs"}); err != nil {
			t.Error(err)
		}
	}
}

// What comes of an answer of /keys/query: everything in it as the homeserver sent it, byte
// for byte, because it is signed; who is missing is missing, and a server that failed is
// named. Nothing is believed here: trustcache judges it.
func TestKeyQueriesAreReadWhole(t *testing.T) {
	t.Parallel()
	const device = `{"device_id" : "D", "n":1.0,"esc":"\u00e9"}`
	got, err := query(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"device_keys":{"@a:x":{"D":`+device+`,"E":null,"F":7},"@nobody:x":{}},
			"master_keys":{"@a:x":{"m":1}},"self_signing_keys":{"@a:x":{"s":1}},"user_signing_keys":{"@a:x":{"u":1}},
			"failures":{"y":{"errcode":"M_UNKNOWN"}},"more":{"a":1}}`)
	}, "@a:x", "@b:y")
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]json.RawMessage{
		device: got.DeviceKeys["@a:x"]["D"], `null`: got.DeviceKeys["@a:x"]["E"], `7`: got.DeviceKeys["@a:x"]["F"],
		`{"m":1}`: got.MasterKeys["@a:x"], `{"s":1}`: got.SelfSigningKeys["@a:x"], `{"u":1}`: got.UserSigningKeys["@a:x"],
		`{"errcode":"M_UNKNOWN"}`: got.Failures["y"],
	}
	for want, text := range texts {
		if string(text) != want {
			t.Errorf("%s came as %s", want, text)
		}
	}
	if users := slices.Sorted(maps.Keys(got.DeviceKeys)); !slices.Equal(users, []id.UserID{"@a:x", "@nobody:x"}) {
		t.Errorf("devices of %v", users)
	}
	if len(got.MasterKeys)+len(got.SelfSigningKeys)+len(got.UserSigningKeys)+len(got.Failures) != 4 {
		t.Errorf("there is more: %+v", got)
	}
}

// Attack: a homeserver answers /keys/query with something else than keys, so that users
// seem to have no devices, and are not warned about.
//
// Expected: an answer that cannot be read whole is no answer. An error is not one either,
// and only the end of the session of who asks is the asker's own fault.
func TestKeyQueriesThatLie(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		status int
		body   string
		asker  bool
	}{
		{"devices that are a list", 200, `{"device_keys":[]}`, false},
		{"devices of a user that are a list", 200, `{"device_keys":{"@a:x":[]}}`, false},
		{"master keys that are a text", 200, `{"device_keys":{},"master_keys":"none"}`, false},
		{"failures that are a list", 200, `{"device_keys":{},"failures":["x"]}`, false},
		{"a list", 200, `[]`, false},
		{"half an answer", 200, `{"device_keys":{"@a:x":{}`, false},
		{"a page", 200, `<html>`, false},
		{"nothing", 200, ``, false},
		{"an error", 500, `{"errcode":"M_UNKNOWN"}`, false},
		{"not allowed", 403, `{"errcode":"M_FORBIDDEN"}`, false},
		{"too fast", 429, `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":10}`, false},
		{"the session has ended", 401, `{"errcode":"M_UNKNOWN_TOKEN"}`, true},
		{"no token", 401, `{"errcode":"M_MISSING_TOKEN"}`, true},
	} {
		got, err := query(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(tc.status)
			_, _ = io.WriteString(w, tc.body)
		}, "@a:x")
		var up *UpstreamError
		if got != nil || !errors.As(err, &up) || errors.Is(err, trustcache.ErrAsker) != tc.asker {
			t.Errorf("%s: %+v, %v", tc.name, got, err)
		}
	}
}
