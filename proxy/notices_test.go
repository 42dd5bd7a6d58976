package proxy

import (
	"context"
	"strings"
	"testing"

	"e2ee-proxy/interceptors"
)

// noNotices are devices that nobody was shown a notice of.
type noNotices struct{ interceptors.Devices }

func (noNotices) Device(context.Context, interceptors.Identity) (interceptors.Device, error) {
	return nil, interceptors.NotFound("There is no such event.")
}

// The names of the proxy's notices mean nothing to the homeserver, so no path that holds
// one reaches it, whatever the endpoint, also one that the table does not have.
func TestNoticesStayHere(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(o *Options) { o.Devices = noNotices{} })
	const event, sender = "%24n:e2ee-proxy.invalid", "@warnings:e2ee-proxy.invalid"
	tried := 0
	for _, r := range allRoutes() {
		if r.class == classRefuse || !strings.Contains(r.pattern, "{eventId}") && !strings.Contains(r.pattern, "{userId}") || strings.Contains(r.pattern, "/_e2ee_proxy/") {
			continue
		}
		version := strings.Split(versionNames(r.versions), ",")[0]
		target := fill(strings.NewReplacer("{eventId}", event, "{userId}", sender).Replace(r.pattern), version)
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
	for _, target := range []string{
		"/_matrix/client/unstable/org.example/rooms/!r:hs/thing/" + event,
		"/_matrix/client/v3/org.example/" + event, "/_matrix/client/v3/thing/" + sender,
	} {
		g.do("GET", target, "", "Authorization: Bearer alice")
		tried++
	}
	if all := g.hs.all(); len(all) > 0 || tried < 20 {
		t.Errorf("of %d requests the homeserver got %+v", tried, all)
	}
	profile := g.do("GET", "/_matrix/client/v3/profile/"+sender, "", "Authorization: Bearer alice")
	if profile.StatusCode != 200 || !strings.Contains(profile.body, `"displayname":"Encryption proxy"`) {
		t.Errorf("the profile of the sender: %d %s", profile.StatusCode, profile.body)
	}
}
