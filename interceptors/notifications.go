package interceptors

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/engineerr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/interceptors/internal/rewrite"
	"e2ee-proxy/internal/strictjson"
)

// GET /notifications, for devices whose encryption the proxy does. The homeserver lists
// ciphertext, of which it knows neither whether it notifies nor whom it mentions. So each
// notification is opened and gets the actions that the push rules have for the clear event;
// one that has none is left out.
//
// What notifies only by its clear event, the homeserver does not list: see
// notifications_missed.go. Nor has it the control room: see notifications_control.go.
//
// Upstream: only is left out and applied here, and as many pages are asked for as that takes,
// up to a bound. Then the answer may be empty, and have a token.

const (
	// maxNotifications is how many notifications are taken apart at once, and
	// maxNotificationBytes how large they may be.
	maxNotifications     = 50
	maxNotificationBytes = 16 << 20
	// maxNotificationPages is how many pages one answer takes.
	maxNotificationPages = 8
)

type notifications struct{ *read }

func (n *notifications) serve(x *Exchange) error {
	dev, err := x.Device()
	if err != nil {
		return err
	}
	if dev.Mode() != e2ee.ModeProxied {
		return x.Upstream.Forward(x)
	}
	query := syncQuery(x.Request)
	highlights := query.Get("only") == "highlight"
	if highlights {
		query.Del("only")
	}
	limit, err := strconv.Atoi(query.Get("limit"))
	if limit = min(limit, maxNotifications); err != nil || limit <= 0 {
		limit = maxNotifications
	}
	merge, err := n.merge(x, dev)
	if err != nil {
		return err
	}
	var found []json.RawMessage
	for pages := 1; ; pages++ {
		resp, err := merge.next(query, limit-len(found))
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return x.RelayAndClose(resp)
		}
		answer, err := n.page(x, dev, resp)
		if err != nil {
			return err
		}
		listed := answer.List("notifications")
		merge.put(listed)
		page, err := merge.chosen(listed, highlights, limit-len(found))
		if err != nil {
			return err
		}
		found = append(found, page...)
		next := answer.TextOrEmpty("next_token")
		if !highlights || next == "" || next == query.Get("from") || len(found) >= limit || pages == maxNotificationPages {
			all, err := json.Marshal(append([]json.RawMessage{}, found...))
			if err != nil {
				return fmt.Errorf("write notifications: %w", err)
			}
			exchange.ReplaceBody(resp, answer.Set("notifications", all).Encode())
			return x.Upstream.Relay(x, resp)
		}
		query.Set("from", next)
	}
}

// page returns a page with its events opened.
func (n *notifications) page(x *Exchange, dev Device, resp *http.Response) (answer strictjson.Object, err error) {
	defer resp.Body.Close() //nolint:errcheck // it was read to its end, or the request failed
	body, err := n.rewriter.Read(resp.Body, rewrite.Pass{Owner: x.Identity.UserID})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	if body.Size() > maxNotificationBytes {
		return nil, rewrite.Unreadable(fmt.Errorf("a page of %d bytes", body.Size()))
	}
	held := heldUpdate{from: n.opt.UpdateMemory, owner: string(x.Identity.UserID)}
	defer held.release()
	if err := held.add(int(2 * body.Size())); err != nil {
		return nil, err
	}
	if err := n.lookUpRooms(x.Request.Context(), dev, body); err != nil {
		return nil, err
	}
	raw, err := body.Bytes(x.Request.Context(), rewrite.Output{Device: dev, Redeliver: true, Page: true, Wait: n.opt.KeyWait})
	if err != nil {
		return nil, err
	}
	if answer, err = strictjson.Parse(raw); err != nil {
		return nil, rewrite.Unreadable(err)
	}
	return answer, nil
}

// chosen returns the notifications of a page that are shown. What could not be decrypted, and
// what was sent in clear, is what the homeserver says it is. There are at most limit.
func (m *missedMerge) chosen(page []json.RawMessage, highlights bool, limit int) ([]json.RawMessage, error) {
	all := make([]strictjson.Object, 0, len(page))
	var clear []e2ee.ClearEvent
	var at []int // the notifications of clear, by their places in all
	for _, raw := range page {
		one, err := strictjson.Parse(raw)
		if err != nil {
			return nil, rewrite.Unreadable(err)
		}
		event := one.Object("event")
		if string(event.Get("sender")) == `""` {
			continue // it stands in for one that must not be shown
		}
		if event.IsTrue("decrypted") {
			room, _ := one.Text("room_id")
			clear, at = append(clear, e2ee.ClearEvent{RoomID: id.RoomID(room), Clear: one.Get("event")}), append(at, len(all))
		}
		all = append(all, one)
	}
	actions, err := m.dev.Actions(m.x.Request.Context(), clear)
	if err != nil {
		return nil, engineerr.For(fmt.Errorf("apply push rules: %w", err))
	}
	if len(actions) != len(clear) {
		return nil, apierr.Unread(fmt.Errorf("apply push rules to %d events: got %d", len(clear), len(actions)))
	}
	silent := make(map[int]bool)
	for i, a := range actions {
		if !a.Known {
			continue
		}
		raw, err := json.Marshal(append([]json.RawMessage{}, a.Actions...))
		if err != nil {
			return nil, fmt.Errorf("write actions: %w", err)
		}
		all[at[i]] = all[at[i]].Set("actions", raw)
		silent[at[i]] = !a.Notify
	}
	var shown []strictjson.Object
	for i, one := range all {
		if !silent[i] && (!highlights || highlighted(one.List("actions"))) {
			shown = append(shown, one)
		}
	}
	// A homeserver that heeds no limit is not asked about more than that.
	if shown, err = m.withoutRedacted(shown[:min(len(shown), limit)]); err != nil {
		return nil, err
	}
	var out []json.RawMessage
	for _, one := range shown {
		out = append(out, one.Encode())
	}
	return out, nil
}

// highlighted reports whether actions highlight: a tweak without a value does.
func highlighted(actions []json.RawMessage) bool {
	on := false
	for _, raw := range actions {
		if tweak, err := strictjson.Parse(raw); err == nil && tweak.TextOrEmpty("set_tweak") == "highlight" {
			on = !tweak.IsFalse("value")
		}
	}
	return on
}
