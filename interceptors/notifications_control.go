package interceptors

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/internal/engineerr"
	"e2ee-proxy/internal/strictjson"
)

// What the proxy says in the control room notifies, and is listed among the notifications that the
// homeserver has not. While a page passes through the rewriter, which takes out all that looks like
// the proxy, other entries stand in their places.

// addControl adds what was said in the control room to what is listed.
func (m *missedMerge) addControl() error {
	room := m.dev.ControlRoom()
	if !room.On() {
		return nil
	}
	view, err := room.View(m.x.Request.Context())
	if errors.Is(err, e2ee.ErrNoControlRoom) || err == nil && view.Left {
		return nil
	}
	if err != nil {
		return engineerr.For(fmt.Errorf("look at the control room: %w", err))
	}
	m.said = make(map[id.EventID]json.RawMessage)
	all := slices.Clone(m.missed)
	for _, l := range view.History() {
		if l.Mine {
			continue
		}
		m.said[l.ID] = view.Event(&l)
		all = append(all, e2ee.MissedNotification{RoomID: view.ID(), Event: l.ID, At: l.At, Read: l.Seq <= view.Read})
	}
	slices.SortFunc(all, func(a, b e2ee.MissedNotification) int { return a.Compare(&b) })
	m.missed = all
	return nil
}

// keep returns what stands in the place of a notification. Nobody else can know it.
func (m *missedMerge) keep(entry []byte) []byte {
	place := strictjson.Object{}.Set("place", strictjson.Quote(rand.Text())).Encode()
	m.kept[string(place)] = entry
	return place
}

// put puts what was said in the control room into the places that were kept for it.
func (m *missedMerge) put(page []json.RawMessage) {
	for i, one := range page {
		if entry := m.kept[string(one)]; entry != nil {
			page[i] = entry
		}
	}
}
