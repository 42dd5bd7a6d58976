package interceptors

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/engineerr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/interceptors/internal/rewrite"
	"e2ee-proxy/internal/parallel"
	"e2ee-proxy/internal/strictjson"
)

// The homeserver lists nothing of a room whose rules are quiet about ciphertext, as in a room
// for mentions only. What is known to notify there is listed among its notifications, in order
// of time. Both lists are read from their beginning to their end, each from its own place, so
// whatever the times say, nothing is listed twice or left out.
//
// A page ends with one of the homeserver's notifications, since only behind that there is a
// token of it: when ours leave room for fewer of the homeserver's, it is asked for fewer.

const (
	// maxMissedEvent is the largest event that is listed, in bytes.
	maxMissedEvent = 256 << 10
	// maxMergeTries is how often the homeserver is asked for one page.
	maxMergeTries = 3

	notificationPlacePrefix = "e2ee-proxy."
	maxNotificationPlace    = 4 << 10
)

// notificationPlace is where a list of notifications goes on: a token of ours.
type notificationPlace struct {
	ours bool
	// From is the homeserver's token; Over: it has no more.
	From string `json:"from,omitempty"`
	Over bool   `json:"over,omitempty"`
	// At and Event are the last of ours that was listed.
	At    int64      `json:"at,omitempty"`
	Event id.EventID `json:"event,omitempty"`
}

// readNotificationPlace reads a token. One of the homeserver's own was given out when there
// was nothing of ours.
func readNotificationPlace(token string) (p notificationPlace, err error) {
	coded, ours := strings.CutPrefix(token, notificationPlacePrefix)
	switch {
	case !ours:
		return notificationPlace{From: token}, nil
	case len(token) > maxNotificationPlace:
		return p, apierr.InvalidParam("from is too long.")
	}
	raw, err := base64.RawURLEncoding.DecodeString(coded)
	if err != nil || strictjson.Unmarshal(raw, &p) != nil {
		return p, apierr.InvalidParam("from is none that a list of notifications has returned.")
	}
	p.ours = true
	return p, nil
}

func (p *notificationPlace) token() (string, error) {
	raw, err := json.Marshal(p)
	if err != nil {
		return "", fmt.Errorf("write a token: %w", err)
	}
	token := notificationPlacePrefix + base64.RawURLEncoding.EncodeToString(raw)
	if len(token) > maxNotificationPlace {
		return "", nil // the homeserver's is too long to go on with
	}
	return token, nil
}

// missedMerge lists the account's missed notifications among the homeserver's.
type missedMerge struct {
	*notifications
	x      *Exchange
	dev    Device
	missed []e2ee.MissedNotification
	// asked are those of ours about which the homeserver was asked.
	asked map[string]bool
	// said is what the proxy has said in the control room, and kept are the notifications of it, by
	// what stands in their places.
	said map[id.EventID]json.RawMessage
	kept map[string]json.RawMessage
}

func (n *notifications) merge(x *Exchange, dev Device) (*missedMerge, error) {
	missed, err := dev.MissedNotifications(x.Request.Context())
	if err != nil {
		return nil, engineerr.For(fmt.Errorf("list notifications: %w", err))
	}
	m := &missedMerge{notifications: n, x: x, dev: dev, missed: missed, asked: make(map[string]bool), kept: make(map[string]json.RawMessage)}
	return m, m.addControl()
}

// homeserverPage is a page of the homeserver.
type homeserverPage struct {
	resp   *http.Response
	answer strictjson.Object
	items  []strictjson.Object
	next   string
	ended  bool // there is nothing behind it
	silent bool // it was not asked for
}

// mergedPage is a page with notifications of both, each either one of theirs or one of ours.
type mergedPage struct {
	list []mergedOne
	took int // how many of theirs
	next notificationPlace
	end  bool
}

type mergedOne struct {
	theirs strictjson.Object
	ours   *e2ee.MissedNotification
}

// next returns the page at the token in a query, which has at most limit notifications. Its
// events are as the homeserver has them. A response that is not 200 is the homeserver's.
func (m *missedMerge) next(query url.Values, limit int) (*http.Response, error) {
	place, err := readNotificationPlace(query.Get("from"))
	if err != nil {
		return nil, err
	}
	query = maps.Clone(query)
	if query.Set("from", place.From); place.From == "" {
		query.Del("from")
	}
	if len(m.missed) == 0 && !place.Over {
		query.Set("limit", strconv.Itoa(limit))
		return m.x.Upstream.Do(m.x, Change{Query: query})
	}
	held := heldUpdate{from: m.opt.UpdateMemory, owner: string(m.x.Identity.UserID)}
	defer held.release()
	asked := limit
	for try := 1; ; try++ {
		theirs, err := m.theirs(place, query, asked, &held)
		if err != nil || theirs.resp.StatusCode != http.StatusOK {
			return theirs.resp, err
		}
		if err := m.listed(place, theirs); err != nil {
			return nil, errors.Join(err, theirs.resp.Body.Close())
		}
		page := m.merged(place, theirs, limit)
		if page.took == len(theirs.items) {
			return m.written(theirs, page)
		}
		if err := theirs.resp.Body.Close(); err != nil {
			return nil, fmt.Errorf("end a page of notifications: %w", err)
		}
		if asked = page.took; try == maxMergeTries {
			asked = 0
		}
	}
}

// theirs asks the homeserver for a page; for none if it has no more.
func (m *missedMerge) theirs(place notificationPlace, query url.Values, limit int, held *heldUpdate) (p homeserverPage, err error) {
	if place.Over || limit == 0 {
		p.resp = &http.Response{
			StatusCode: http.StatusOK, Body: http.NoBody, Request: m.x.Request,
			Header: http.Header{"Content-Type": {"application/json"}, "Access-Control-Allow-Origin": {"*"}},
		}
		p.next, p.ended, p.silent = place.From, place.Over, true
		return p, nil
	}
	query.Set("limit", strconv.Itoa(limit))
	p.resp, err = m.x.Upstream.Do(m.x, Change{Query: query}) //nolint:bodyclose // who gets the page closes it
	if err != nil || p.resp.StatusCode != http.StatusOK {
		return p, err
	}
	if err := m.readTheirs(&p, limit, held); err != nil {
		return homeserverPage{}, errors.Join(err, p.resp.Body.Close())
	}
	return p, nil
}

func (m *missedMerge) readTheirs(p *homeserverPage, limit int, held *heldUpdate) (err error) {
	raw := exchange.PeekUpTo(p.resp, maxNotificationBytes)
	if err := held.add(2 * len(raw)); err != nil {
		return err
	}
	if p.answer, err = strictjson.Parse(raw); err != nil {
		return rewrite.Unreadable(err)
	}
	list := p.answer.List("notifications")
	for _, one := range list[:min(len(list), limit)] { // some heed no limit
		item, err := strictjson.Parse(one)
		if err != nil {
			return rewrite.Unreadable(err)
		}
		p.items = append(p.items, item)
	}
	p.next = p.answer.TextOrEmpty("next_token")
	p.ended = p.next == ""
	return nil
}

// behind returns those of ours that were not listed up to a place.
func (m *missedMerge) behind(place notificationPlace) []e2ee.MissedNotification {
	if place.Event == "" {
		return m.missed
	}
	last := e2ee.MissedNotification{At: place.At, Event: place.Event}
	i := slices.IndexFunc(m.missed, func(one e2ee.MissedNotification) bool { return last.Compare(&one) < 0 })
	if i < 0 {
		return nil
	}
	return m.missed[i:]
}

// listed forgets those of ours that the homeserver lists after all, unless they were listed
// before: then the homeserver's are left out of the page.
func (m *missedMerge) listed(place notificationPlace, theirs homeserverPage) error {
	behind := m.behind(place)
	var gone []id.EventID
	for _, one := range theirs.items {
		event := eventOf(one)
		if slices.ContainsFunc(behind, func(m e2ee.MissedNotification) bool { return m.Event == event && !e2ee.IsControlRoom(string(m.RoomID)) }) {
			gone = append(gone, event)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	if err := m.dev.NotificationsListed(m.x.Request.Context(), gone); err != nil {
		return engineerr.For(fmt.Errorf("list notifications: %w", err))
	}
	m.missed = slices.DeleteFunc(m.missed, func(m e2ee.MissedNotification) bool { return slices.Contains(gone, m.Event) })
	return nil
}

func eventOf(one strictjson.Object) id.EventID {
	return id.EventID(one.Object("event").TextOrEmpty("event_id"))
}

// merged merges a page of the homeserver with ours, up to a limit.
func (m *missedMerge) merged(place notificationPlace, theirs homeserverPage, limit int) (p mergedPage) {
	ours := m.behind(place)
	before := make(map[id.EventID]bool)
	for i := range m.missed[:len(m.missed)-len(ours)] {
		before[m.missed[i].Event] = true
	}
	p.next = notificationPlace{From: theirs.next, Over: theirs.ended, At: place.At, Event: place.Event}
	take := func() {
		p.list = append(p.list, mergedOne{ours: &ours[0]})
		p.next.At, p.next.Event, ours = ours[0].At, ours[0].Event, ours[1:]
	}
	for _, one := range theirs.items {
		for at := timeOf(one); len(ours) > 0 && ours[0].At > at && len(p.list) < limit; {
			take()
		}
		if len(p.list) == limit {
			return p
		}
		if p.took++; !before[eventOf(one)] {
			p.list = append(p.list, mergedOne{theirs: one})
		}
	}
	// What is behind the page may be newer than the rest of ours, unless there is nothing, or
	// it is known that ours fill the page.
	for (theirs.ended || theirs.silent) && len(ours) > 0 && len(p.list) < limit {
		take()
	}
	p.end = theirs.ended && len(ours) == 0
	return p
}

// timeOf returns when a notification was sent; those that do not say it come first.
func timeOf(one strictjson.Object) int64 {
	at, err := strconv.ParseFloat(string(one.Get("ts")), 64)
	if err != nil || math.Abs(at) > 1<<53 {
		return math.MaxInt64
	}
	return int64(at)
}

// written returns a page as a response, in which ours are as the homeserver has them.
func (m *missedMerge) written(theirs homeserverPage, p mergedPage) (*http.Response, error) {
	events, err := m.events(p.list)
	if err != nil {
		return nil, errors.Join(err, theirs.resp.Body.Close())
	}
	list := make([]json.RawMessage, 0, len(p.list))
	for i, one := range p.list {
		switch {
		case one.theirs != nil:
			list = append(list, one.theirs.Encode())
		case events[i] != nil:
			// The actions are those of the clear event, which are found out later.
			entry := strictjson.Object{}.Set("actions", json.RawMessage(`["notify"]`)).Set("event", events[i]).
				Set("read", json.RawMessage(strconv.FormatBool(one.ours.Read))).Set("room_id", strictjson.Quote(string(one.ours.RoomID))).
				Set("ts", json.RawMessage(strconv.FormatInt(one.ours.At, 10))).Encode()
			if m.said[one.ours.Event] != nil {
				entry = m.keep(entry)
			}
			list = append(list, entry)
		}
	}
	raw, err := json.Marshal(list)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("write notifications: %w", err), theirs.resp.Body.Close())
	}
	answer := theirs.answer.Without("next_token").Set("notifications", raw)
	token := ""
	if !p.end {
		if token, err = p.next.token(); err != nil {
			return nil, errors.Join(err, theirs.resp.Body.Close())
		}
	}
	if token != "" {
		answer = answer.Set("next_token", strictjson.Quote(token))
	}
	exchange.ReplaceBody(theirs.resp, answer.Encode())
	return theirs.resp, nil
}

// events asks the homeserver for the events of ours, by their places in a list. One that it
// does not give out, or that was redacted, is nil.
func (m *missedMerge) events(list []mergedOne) ([]json.RawMessage, error) {
	events := make([]json.RawMessage, len(list))
	group, ctx := errgroup.WithContext(m.x.Request.Context())
	group.SetLimit(redactedParallel)
	for i, one := range list {
		if one.ours == nil {
			continue
		}
		m.asked[string(one.ours.Event)] = true
		if events[i] = m.said[one.ours.Event]; events[i] != nil {
			continue
		}
		group.Go(parallel.Safe(func() (err error) {
			events[i], err = m.event(ctx, one.ours)
			return err
		}))
	}
	return events, group.Wait() //nolint:wrapcheck // it is what the client is told
}

func (m *missedMerge) event(ctx context.Context, one *e2ee.MissedNotification) (json.RawMessage, error) {
	if !exchange.ValidRoom(string(one.RoomID)) {
		return nil, nil
	}
	raw, status, err := eventNow(ctx, m.x, string(one.RoomID), string(one.Event))
	if err != nil || status != http.StatusOK || len(raw) > maxMissedEvent {
		return nil, err
	}
	event, err := strictjson.Parse(raw)
	if err != nil || event.TextOrEmpty("event_id") != string(one.Event) || event.TextOrEmpty("type") != typeEncrypted ||
		event.Object("content").Get("ciphertext") == nil {
		return nil, nil //nolint:nilerr // it is not the event any more
	}
	return event.Encode(), nil
}

// eventNow asks the homeserver for an event. What is about the client's token is an error,
// every other failure is a status.
func eventNow(ctx context.Context, x *Exchange, room, event string) (json.RawMessage, int, error) {
	raw, status, err := ask(ctx, x, Change{
		Pattern: "/_matrix/client/v3/rooms/{roomId}/event/{eventId}", Query: exchange.IdentityQuery(x.Request.URL.Query()),
		Params: map[string]string{"roomId": room, "eventId": event},
	})
	if said, ok := errors.AsType[*apierr.Error](err); ok && said.Status == http.StatusUnauthorized {
		return nil, 0, err // the client must get it
	}
	if err != nil {
		return nil, http.StatusBadGateway, nil //nolint:nilerr // it does not say
	}
	return json.RawMessage(raw), status, nil
}
