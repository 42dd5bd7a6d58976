package interceptors

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/engineerr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/interceptors/internal/rewrite"
	"e2ee-proxy/internal/jsonscan"
	"e2ee-proxy/internal/strictjson"
)

// Notices are warnings shown as messages in rooms, which exist only between the proxy and
// its clients (see package e2ee). So their names mean something only here:
//
//   - An event from the homeserver that has such a name as its sender, its ID or its state
//     key is withheld.
//   - A request whose path names one is answered here: with the event itself where it is
//     asked for, with nothing elsewhere.
//   - A receipt or read marker that names a notice goes up for the last event before it, if
//     that can be found, else it is dropped, and succeeds.
//   - A reply to one is sent without the relation. Reactions, edits and redactions of one
//     are refused.

// IsNoticeName reports whether a text is the name of a notice or of the notices' sender.
func IsNoticeName(name string) bool { return e2ee.IsNoticeName(name) }

// AnswerNotice answers a request whose path names a notice or its sender. Nothing of it
// goes upstream.
func AnswerNotice(x *Exchange) error {
	method, pattern := x.Request.Method, x.Endpoint.Pattern
	switch {
	case strings.Contains(pattern, "/receipt/") && method == http.MethodPost:
		return noticeRead(x)
	case strings.HasSuffix(pattern, "/event/{eventId}"), strings.HasSuffix(pattern, "/context/{eventId}"):
		return answerNoticeEvent(x)
	case strings.Contains(pattern, "/relations/"):
		return x.WriteJSON(struct {
			Chunk []string `json:"chunk"`
		}{[]string{}})
	case strings.Contains(pattern, "/profile/") && method == http.MethodGet && e2ee.IsNoticeName(x.Endpoint.Params["userId"]):
		return x.WriteJSON(map[string]string{"displayname": e2ee.NoticeName})
	case strings.Contains(pattern, "/redact/"):
		return noticeStays()
	}
	return apierr.NotFound("This belongs to a notice of the proxy, which only you can see.")
}

// noticeRead handles a receipt for a notice.
func noticeRead(x *Exchange) error {
	before := beforeNotice(x, x.Endpoint.Params["eventId"])
	if before == "" {
		return x.WriteJSON(struct{}{})
	}
	resp, err := x.Upstream.Do(x, Change{Params: map[string]string{"eventId": before}}) //nolint:bodyclose // RelayAndClose closes it
	if err != nil {
		return fmt.Errorf("send a receipt: %w", err)
	}
	return x.RelayAndClose(resp)
}

// beforeNotice asks the homeserver for the last event that the client was shown before a
// notice. It returns "" when that cannot be found.
func beforeNotice(x *Exchange, notice string) string {
	dev, err := x.Device()
	if err != nil {
		return ""
	}
	room, err := x.RoomParam()
	if err != nil {
		return ""
	}
	place, err := dev.NoticePlace(x.Request.Context(), room, id.EventID(notice))
	if err != nil || place == "" {
		return ""
	}
	asking := *x
	asking.Request = x.Request.Clone(x.Request.Context())
	asking.Request.Body, asking.Request.ContentLength = http.NoBody, 0
	query := exchange.IdentityQuery(x.Request.URL.Query())
	query.Set("from", place)
	query.Set("dir", "b")
	query.Set("limit", "1")
	resp, err := x.Upstream.Do(&asking, Change{
		Method: http.MethodGet, Pattern: "/_matrix/client/v3/rooms/{roomId}/messages", Query: query,
	})
	if err != nil {
		return ""
	}
	defer func() { _ = resp.Body.Close() }()
	var page struct {
		Chunk []struct {
			EventID string `json:"event_id"`
		} `json:"chunk"`
	}
	if resp.StatusCode != http.StatusOK || json.Unmarshal(exchange.Peek(resp), &page) != nil || len(page.Chunk) != 1 {
		return ""
	}
	if event := page.Chunk[0].EventID; !e2ee.IsNoticeName(event) {
		return event
	}
	return ""
}

func noticeStays() *apierr.Error {
	return apierr.Forbidden("This is a notice of the proxy, which only you can see, so nobody can react to it, change it or take it back.").
		WithHint("It can be dismissed: POST /_e2ee_proxy/v1/warnings/{id}/dismiss.")
}

// answerNoticeEvent answers with a notice that the client was shown.
func answerNoticeEvent(x *Exchange) error {
	dev, err := x.Device()
	if err != nil {
		return err
	}
	room, err := x.RoomParam()
	if err != nil {
		return err
	}
	event, ok, err := dev.Notice(x.Request.Context(), room, id.EventID(x.Endpoint.Params["eventId"]))
	if err != nil {
		return engineerr.For(fmt.Errorf("find a notice: %w", err))
	}
	if !ok {
		return apierr.NotFound("There is no such event.")
	}
	if strings.HasSuffix(x.Endpoint.Pattern, "/event/{eventId}") {
		return x.WriteJSON(jsontext.Value(event))
	}
	return x.WriteJSON(struct {
		Event  jsontext.Value   `json:"event"`
		Before []jsontext.Value `json:"events_before"`
		After  []jsontext.Value `json:"events_after"`
		State  []jsontext.Value `json:"state"`
	}{Event: jsontext.Value(event), Before: []jsontext.Value{}, After: []jsontext.Value{}, State: []jsontext.Value{}})
}

// readMarkers handles [ReadMarkers]: a marker on a notice becomes one on the event before
// it.
func readMarkers(x *Exchange) error {
	raw, err := x.ReadBody()
	if err != nil {
		return err
	}
	if !rewrite.MayNameNotice(raw) {
		x.PutBack(raw)
		return x.Upstream.Forward(x)
	}
	if err := exchange.CheckObject(raw); err != nil {
		return err
	}
	left := 0
	raw, err = strictjson.Edit(raw, func(_ string, value jsontext.Value) (jsontext.Value, error) {
		if namesNotice(value) {
			before := beforeNotice(x, string(jsonscan.Text(value)))
			if before == "" {
				return nil, nil
			}
			if value, err = jsontext.AppendQuote(nil, before); err != nil {
				return nil, nil
			}
		}
		left++
		return value, nil
	})
	if err != nil {
		return apierr.NotJSON(nil)
	}
	if left == 0 {
		return x.WriteJSON(struct{}{})
	}
	x.PutBack(raw)
	return x.Upstream.Forward(x)
}

// namesNotice reports whether a value is the name of a notice.
func namesNotice(value jsontext.Value) bool {
	return value.Kind() == jsontext.KindString && e2ee.IsNoticeName(string(jsonscan.Text(value)))
}

// withoutNotice removes from a message its relation to a notice: nobody else has that
// event. A message that means nothing without the relation is refused.
func withoutNotice(eventType string, raw []byte) ([]byte, error) {
	if !rewrite.MayNameNotice(raw) {
		return raw, nil
	}
	return strictjson.Edit(raw, func(name string, value jsontext.Value) (jsontext.Value, error) {
		switch {
		case name == "redacts" && eventType == typeRedaction && namesNotice(value):
			return nil, noticeStays()
		case name == "m.relates_to" && value.Kind() == jsontext.KindBeginObject:
			return relationWithoutNotice(value)
		}
		return value, nil
	})
}

// relationWithoutNotice returns a relation without a notice; nil when nothing is left of
// it.
func relationWithoutNotice(relation jsontext.Value) (jsontext.Value, error) {
	var kind string
	var names, other bool
	kept, err := strictjson.Edit(relation, func(name string, value jsontext.Value) (jsontext.Value, error) {
		switch name {
		case "rel_type":
			if value.Kind() == jsontext.KindString {
				kind = string(jsonscan.Text(value))
			}
		case "event_id":
			names = names || namesNotice(value)
		case "m.in_reply_to":
			if value.Kind() != jsontext.KindBeginObject {
				break
			}
			reply, err := strictjson.Edit(value, func(_ string, inner jsontext.Value) (jsontext.Value, error) {
				if namesNotice(inner) {
					return nil, nil
				}
				return inner, nil
			})
			if err != nil || len(reply) <= len(`{}`) {
				return nil, err
			}
			other = true
		default:
			other = true
		}
		return value, nil
	})
	switch {
	case err != nil:
		return nil, err
	case names && kind != "m.thread":
		return nil, noticeStays()
	case names, kind == "" && !other:
		return nil, nil
	}
	return kept, nil
}
