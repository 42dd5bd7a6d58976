package proxy

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors"
	"e2ee-proxy/interceptors/apierr"
)

// noNotices is an interceptors.Devices in which no client was shown a notice.
type noNotices struct{ interceptors.Devices }

func (noNotices) Device(context.Context, interceptors.Identity) (interceptors.Device, error) {
	return nil, apierr.NotFound("There is no such event.")
}

// The names of the proxy's notices mean nothing to the homeserver, so no path that holds
// one reaches it, whatever the endpoint, also one that the table does not have.
func TestNoticesStayHere(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(o *Options) { o.Devices = noNotices{} })
	const event, sender, control, server = "%24n:e2ee-proxy.invalid", "@warnings:e2ee-proxy.invalid", "!room:e2ee-proxy.invalid", "e2ee-proxy.invalid"
	tried := 0
	for _, r := range allRoutes() {
		if r.class == classRefuse || strings.Contains(r.pattern, "/_e2ee_proxy/") {
			continue
		}
		version := strings.Split(versionNames(r.versions), ",")[0]
		for param, name := range map[string]string{
			"{eventId}": event, "{userId}": sender, "{roomId}": control, "{roomIdOrAlias}": control, "{roomAlias}": "%23room:e2ee-proxy.invalid", "{serverName}": server, "{ruleId}": control,
		} {
			if !strings.Contains(r.pattern, param) {
				continue
			}
			target := fill(strings.ReplaceAll(r.pattern, param, name), version)
			body := ""
			if r.method != "GET" {
				body = "{}"
			}
			got := g.do(r.method, target, body, "Authorization: Bearer alice")
			if got.StatusCode >= 500 {
				t.Errorf("%s %s: %d %s", r.method, target, got.StatusCode, got.body)
			}
			tried++
		}
	}
	for _, target := range []string{
		"/_matrix/client/unstable/org.example/rooms/!r:hs/thing/" + event,
		"/_matrix/client/v3/org.example/" + event, "/_matrix/client/v3/thing/" + sender, "/_matrix/client/v3/thing/" + control,
		"/_matrix/media/v3/thing/" + server + "/file",
	} {
		g.do("GET", target, "", "Authorization: Bearer alice")
		tried++
	}
	if all := g.hs.all(); len(all) > 0 || tried < 80 {
		t.Errorf("of %d requests the homeserver got %+v", tried, all)
	}
	profile := g.do("GET", "/_matrix/client/v3/profile/"+sender, "", "Authorization: Bearer alice")
	if profile.StatusCode != 200 || !strings.Contains(profile.body, `"displayname":"Encryption proxy"`) {
		t.Errorf("the profile of the sender: %d %s", profile.StatusCode, profile.body)
	}
}

// oneNotice is an interceptors.Devices in which alice's client was shown a notice.
type oneNotice struct{ interceptors.Devices }

func (oneNotice) Device(_ context.Context, who interceptors.Identity) (interceptors.Device, error) {
	if who.UserID != "@alice:hs" || who.DeviceID != "ALICE" {
		return nil, apierr.NotFound("There is no such event.")
	}
	return shownNotice{}, nil
}

type shownNotice struct{ interceptors.Device }

func (shownNotice) NoticePlace(context.Context, id.RoomID, id.EventID) (string, error) {
	return "s7", nil
}

// A receipt for a notice goes to the homeserver for what stands before it, in the name of who
// was shown the notice, and of nobody else.
func TestReceiptForANotice(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(o *Options) { o.Devices = oneNotice{} })
	g.hs.answer = func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		switch {
		case strings.HasSuffix(r.URL.Path, "/whoami"):
			_, _ = io.WriteString(w, g.hs.tokens[token])
		case strings.HasSuffix(r.URL.Path, "/messages"):
			_, _ = io.WriteString(w, `{"chunk":[{"event_id":"$before"}]}`)
		default:
			_, _ = io.WriteString(w, `{}`)
		}
	}
	const notice = "%24n:e2ee-proxy.invalid"
	for user, want := range map[string][]string{
		"alice": {"GET /_matrix/client/v3/rooms/%21r%3Ahs/messages?dir=b&from=s7&limit=1", "POST /_matrix/client/v3/rooms/%21r%3Ahs/receipt/m.read/%24before"},
		"bob":   nil,
	} {
		before := len(g.hs.all())
		got := g.do("POST", "/_matrix/client/v3/rooms/%21r:hs/receipt/m.read/"+notice, `{}`, "Authorization: Bearer "+user)
		if got.StatusCode != 200 || got.body != "{}" {
			t.Errorf("%s: %d %s", user, got.StatusCode, got.body)
		}
		var told []string
		for _, r := range g.hs.all()[before:] {
			told = append(told, r.Method+" "+r.Target)
		}
		if !slices.Equal(told, want) {
			t.Errorf("%s: the homeserver was told %q, want %q", user, told, want)
		}
	}
	if got := g.do("POST", "/_matrix/client/v3/rooms/%21r:hs/receipt/m.read/"+notice, `{}`); got.StatusCode != 401 {
		t.Errorf("without a token: %d %s", got.StatusCode, got.body)
	}
}
