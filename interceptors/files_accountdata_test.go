package interceptors

import (
	"net/http"
	"strings"
	"testing"

	"e2ee-proxy/interceptors/apierr"
)

// Account data of any size is looked through for files, up to what the route takes, without being
// in memory: what names none passes byte for byte, and what cannot be looked through is refused.
func TestLargeAccountDataIsLookedThrough(t *testing.T) {
	t.Parallel()
	w, store, _ := newKeepingWorld(t, 0)
	uri := w.upload(secretFile)
	filler := `"` + strings.Repeat("filler ", 100_000) + `"`
	put := func(body string) error {
		_, err := w.do(call{
			handler: PutAccountData, method: http.MethodPut, pattern: "/user/{userId}/account_data/{type}",
			params: map[string]string{"userId": string(alice), "type": "im.ponies.user_emotes"}, body: body, maxBody: 16 << 20,
		})
		return err
	}
	last := func() string {
		all := w.up.requests()
		return all[len(all)-1].body
	}
	plain := `{"\u006dxc":1, "a":[` + filler + `,` + filler + `,"mxc://hs.example/other",` + filler + `]}`
	if err := put(plain); err != nil || last() != plain {
		t.Errorf("%v; what names no file of the account was changed", err)
	}
	named := func(uri string) string {
		return `{"a":[` + filler + `,` + filler + `],"url":` + uri + `,"b":[` + filler + `,` + filler + `]}`
	}
	for _, form := range []string{`"` + uri + `"`, `"\u006dxc:\/\/` + strings.TrimPrefix(uri, "mxc://") + `"`} {
		if err := put(named(form)); err != nil || last() != named(`"mxc://hs.example/m2"`) || string(store.at("hs.example/m2")) != secretFile {
			t.Errorf("%s: %v; what was put does not name the copy in clear", form, err)
		}
	}
	n := len(w.up.requests())
	wantError(t, put(`{"a":"`+strings.Repeat("x", 2<<20)+`","url":"`+uri+`"}`), http.StatusRequestEntityTooLarge, apierr.CodeTooLarge)
	wantError(t, put(named(`"`+uri+`"`)+strings.Repeat(" ", 16<<20)), http.StatusRequestEntityTooLarge, apierr.CodeTooLarge)
	if len(w.up.requests()) != n {
		t.Error("what was refused went up")
	}
}
