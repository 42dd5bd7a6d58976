package e2e

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"e2ee-proxy/internal/testbrowser"
	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testproxy"
)

// provider is an OpenID Connect provider, as far as Synapse needs one. Its page asks nothing but
// whether somebody who is signed in there, as user, may go on.
type provider struct {
	URL string

	key *rsa.PrivateKey

	mu    sync.Mutex
	user  string
	codes map[string]url.Values // codes that were not used, by what they were asked for with
}

var consent = template.Must(template.New("").Parse(`<!doctype html><html lang="en"><title>Provider</title><h1>Do you want to sign in?</h1>
<p><a href="{{.Yes}}">Allow</a> <a href="{{.No}}">Do not allow</a></p></html>`))

func newProvider(t *testing.T) *provider {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{key: key, codes: map[string]url.Values{}}
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	p.URL = server.URL
	say := func(w http.ResponseWriter, what any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(what)
	}
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		say(w, map[string]any{
			"issuer": p.URL, "authorization_endpoint": p.URL + "/authorize", "token_endpoint": p.URL + "/token", "jwks_uri": p.URL + "/keys",
			"userinfo_endpoint": p.URL + "/userinfo", "response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
			"id_token_signing_alg_values_supported": []string{"RS256"},
		})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		say(w, map[string]any{"keys": []any{map[string]string{
			"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "1",
			"n": base64.RawURLEncoding.EncodeToString(key.N.Bytes()), "e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes()),
		}}})
	})
	mux.HandleFunc("GET /authorize", func(w http.ResponseWriter, r *http.Request) {
		asked := r.URL.Query()
		code := rand.Text()
		p.mu.Lock()
		p.codes[code] = asked
		p.mu.Unlock()
		back := func(with url.Values) string {
			with.Set("state", asked.Get("state"))
			return asked.Get("redirect_uri") + "?" + with.Encode()
		}
		w.Header().Set("Content-Type", "text/html")
		_ = consent.Execute(w, map[string]template.URL{
			"Yes": template.URL(back(url.Values{"code": {code}})),
			"No":  template.URL(back(url.Values{"error": {"access_denied"}, "error_description": {"You did not allow it."}})),
		})
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		asked, ok := p.codes[r.PostFormValue("code")]
		delete(p.codes, r.PostFormValue("code"))
		user := p.user
		p.mu.Unlock()
		if !ok {
			w.WriteHeader(http.StatusBadRequest)
			say(w, map[string]string{"error": "invalid_grant"})
			return
		}
		say(w, map[string]any{"access_token": rand.Text(), "token_type": "Bearer", "expires_in": 300, "id_token": p.token(t, user, asked)})
	})
	mux.HandleFunc("GET /userinfo", func(w http.ResponseWriter, _ *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		say(w, map[string]string{"sub": p.user, "preferred_username": p.user})
	})
	return p
}

// as sets who is signed in at the provider.
func (p *provider) as(a tesths.Account) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.user, _, _ = strings.Cut(strings.TrimPrefix(a.UserID, "@"), ":")
}

func (p *provider) token(t *testing.T, user string, asked url.Values) string {
	part := func(v any) string {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Error(err)
		}
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	now := time.Now().Unix()
	signed := part(map[string]string{"alg": "RS256", "kid": "1"}) + "." + part(map[string]any{
		"iss": p.URL, "sub": user, "aud": asked.Get("client_id"), "nonce": asked.Get("nonce"), "iat": now, "exp": now + 300, "preferred_username": user,
	})
	sum := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, p.key, crypto.SHA256, sum[:])
	if err != nil {
		t.Error(err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// providerSettings have Synapse send people to a provider. %[1]s is its URL.
const providerSettings = `
public_baseurl: http://127.0.0.1:{{.Port}}/
oidc_providers:
- idp_id: test
  idp_name: Test
  issuer: %[1]s
  skip_verification: true
  client_id: synapse
  client_secret: "for tests only"
  scopes: [openid]
  allow_existing_users: true
  user_mapping_provider: {config: {localpart_template: "{{"{{ user.preferred_username }}"}}"}}
`

// door is a console whose homeserver, a Synapse of its own, sends people to a provider.
type door struct {
	t       *testing.T
	at      *provider
	proxy   *testproxy.Proxy
	hs      *tesths.Homeserver
	browser *testbrowser.Browser
}

func newDoor(t *testing.T) *door {
	t.Helper()
	at := newProvider(t)
	hs := tesths.SynapseWith(t, fmt.Sprintf(providerSettings, at.URL))
	return &door{t, at, testproxy.Start(t, hs.URL, testproxy.Options{}), hs, testbrowser.Start(t)}
}

// person returns somebody who has a client behind the proxy.
func (d *door) person(name string) *curl {
	d.t.Helper()
	c := newCurl(d.t, d.proxy.URL, newAccount(d.t, d.hs, name))
	c.awaitInOrder()
	return c
}

// begins opens a browser, in which somebody goes to the provider.
func (d *door) begins(who *curl) *testbrowser.Page {
	d.t.Helper()
	p := d.browser.Open(testbrowser.Look{})
	d.again(p, who)
	return p
}

func (d *door) again(p *testbrowser.Page, who *curl) {
	d.t.Helper()
	d.at.as(who.account)
	p.Goto(d.proxy.URL + consolePath)
	p.Follow("Go on with single sign-on")
	p.Wants("Do you want to sign in?")
}

// link returns where the page of the homeserver leads back to the console.
func (d *door) link(p *testbrowser.Page) (link string) {
	d.t.Helper()
	p.InPage(`document.querySelector("a.primary-button").href`, &link)
	if !strings.HasPrefix(link, d.proxy.URL+consolePath) || !strings.Contains(link, "loginToken=") {
		d.t.Fatalf("the homeserver leads to %s", strings.SplitN(link, "?", 2)[0])
	}
	return link
}

func (d *door) wantOutside(p *testbrowser.Page) {
	d.t.Helper()
	p.Goto(d.proxy.URL + consolePath)
	p.Wants("Go on with single sign-on")
}

// A person signs in to the console at the page of an OpenID Connect provider, through Synapse, in a
// browser. The address at which they are then has nothing secret in it, and no device is left behind.
func TestSignInAtAProvider(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	bob := d.person("bob")
	p := d.begins(bob)
	p.Follow("Allow")
	p.Wants("Continue to your account")
	p.Follow("Continue")
	p.Await("All is well")
	p.Wants("Signed in as " + bob.account.UserID)
	if at := p.URL(); at != d.proxy.URL+consolePath {
		t.Errorf("the browser is at %s", at)
	}
	wantNoConsoleDevice(t, bob)
	p.Follow("Sign out")
	d.wantOutside(p)
	t.Run("without script", func(t *testing.T) {
		p := d.browser.Open(testbrowser.Look{NoScript: true})
		d.again(p, bob)
		p.Follow("Allow")
		p.Follow("Continue")
		p.Goto(d.proxy.URL + consolePath)
		p.Wants("Signed in as " + bob.account.UserID)
	})
}

// Somebody says no at the provider. Nobody is signed in, and they can begin again.
func TestSignInIsNotAllowed(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	bob := d.person("bob")
	p := d.begins(bob)
	p.Follow("Do not allow")
	p.Wants("You did not allow it.")
	d.wantOutside(p)
	d.again(p, bob)
	p.Follow("Allow")
	p.Follow("Continue")
	p.Await("Signed in as " + bob.account.UserID)
}

// Attack: mallory signs in as herself, does not follow the last link, and has another person follow it,
// so that they type their recovery key into her account; or sends them one whose state is another, or
// none, while they are on their way themselves. Nothing of it signs anybody in, and the link is not
// used up by it.
func TestLinkOfSomebodyElsesSignIn(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	mallory, bob := d.person("mallory"), d.person("bob")
	hers := d.begins(mallory)
	hers.Follow("Allow")
	link := d.link(hers)
	his := d.begins(bob)
	his.Follow("Allow")
	own := d.link(his)
	at, err := url.Parse(link)
	if err != nil {
		t.Fatal(err)
	}
	without := func(edit func(url.Values)) string {
		u, q := *at, at.Query()
		edit(q)
		u.RawQuery = q.Encode()
		return u.String()
	}
	strange := d.browser.Open(testbrowser.Look{})
	for what, tt := range map[string]struct {
		page *testbrowser.Page
		link string
	}{
		"in a browser that was not on its way": {strange, link},
		"without a state":                      {his, without(func(q url.Values) { q.Del("state") })},
		"with another state":                   {strange, without(func(q url.Values) { q.Set("state", strings.Repeat("A", 43)) })},
	} {
		if status := tt.page.Goto(tt.link); status != http.StatusForbidden {
			t.Errorf("%s: %d", what, status)
		}
		tt.page.Wants("not begun in this browser")
		d.wantOutside(tt.page)
	}
	d.again(his, bob)
	if status := his.Goto(link); status != http.StatusForbidden {
		t.Errorf("in a browser that is on its way: %d", status)
	}
	d.wantOutside(his)
	his.Goto(own)
	his.Wants("not begun in this browser") // each of these attempts has ended what was begun
	hers.Follow("Continue")
	hers.Await("Signed in as " + mallory.account.UserID)
}

// Attack: somebody finds the last link of a sign-in in the history of a browser, or in a log, and
// follows it again; or puts its word into a sign-in that they have begun themselves. The homeserver
// takes a word once.
func TestLinkOfASignInIsGoodOnce(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	bob, mallory := d.person("bob"), d.person("mallory")
	p := d.begins(bob)
	p.Follow("Allow")
	link := d.link(p)
	p.Follow("Continue")
	p.Await("Signed in as " + bob.account.UserID)
	p.Follow("Sign out")
	if status := p.Goto(link); status != http.StatusForbidden {
		t.Errorf("the same link again: %d", status)
	}
	d.wantOutside(p)

	hers := d.begins(mallory)
	hers.Follow("Allow")
	used, err := url.Parse(link)
	if err != nil {
		t.Fatal(err)
	}
	next, err := url.Parse(d.link(hers))
	if err != nil {
		t.Fatal(err)
	}
	q := next.Query()
	q.Set("loginToken", used.Query().Get("loginToken"))
	next.RawQuery = q.Encode()
	if status := hers.Goto(next.String()); status != http.StatusForbidden {
		t.Errorf("a word that was used: %d", status)
	}
	hers.Wants("used before, or took too long", "Begin again")
	d.wantOutside(hers)
}
