package interceptors

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
)

// Delayed events (MSC4140): a query parameter has the homeserver keep an event and send it
// later. A homeserver that does not know the parameter sends the event at once, which may
// be the opposite of what was meant: that somebody has left a call, or a message for next
// year. So a request that has one goes on only if the homeserver announces the feature. It
// is asked each time: such requests are rare, and features may differ between users.
//
// In an encrypted room the event is encrypted when it is scheduled, for those who are in
// the room then.

// featureDelay is the unstable feature of a homeserver that keeps events for parameters
// with this prefix; with the suffix, also for those without a prefix.
const (
	featureDelay       = "org.matrix.msc4140"
	featureDelayStable = featureDelay + ".stable"
)

// delayFeature returns the feature that a homeserver needs for a query's delay; empty when
// there is no delay.
func delayFeature(query url.Values) string {
	feature := ""
	for name := range query {
		switch {
		case name == "delay", name == "parent_delay_id":
			return featureDelayStable
		case strings.HasPrefix(name, featureDelay+"."):
			feature = featureDelay
		}
	}
	return feature
}

// delayed reports whether a request asks for an event to be sent later. Its answer has no
// event ID, and the event has not happened yet.
func delayed(x *Exchange) bool { return delayFeature(x.Request.URL.Query()) != "" }

// checkDelay refuses a delay that the homeserver would not respect.
func checkDelay(x *Exchange) error {
	feature := delayFeature(x.Request.URL.Query())
	if feature == "" {
		return nil
	}
	can, err := homeserverCan(x, feature)
	if err != nil {
		return err
	}
	if can {
		return nil
	}
	e := apierr.Forbidden("The homeserver does not send events later: it would send this one at once, so it was not sent.").
		WithHint("Send it without a delay, when its time has come.")
	e.Fields = map[string]any{featureDelay + ".errcode": "M_MAX_DELAY_UNSUPPORTED"}
	return e
}

// homeserverCan asks the homeserver whether it has an unstable feature.
func homeserverCan(x *Exchange, feature string) (bool, error) {
	asking := *x
	asking.Request = x.Request.Clone(x.Request.Context())
	asking.Request.Body, asking.Request.ContentLength = http.NoBody, 0
	resp, err := x.Upstream.Do(&asking, Change{
		Method: http.MethodGet, Pattern: "/_matrix/client/versions", Query: exchange.IdentityQuery(x.Request.URL.Query()),
	})
	if err != nil {
		return false, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return false, apierr.FromResponse(resp)
	}
	raw := exchange.Peek(resp)
	if exchange.CheckObject(raw) != nil {
		return false, apierr.Unreachable(errors.New("what the homeserver can do is not readable"))
	}
	return exchange.AnswerObject(resp).Object("unstable_features").IsTrue(feature), nil
}
