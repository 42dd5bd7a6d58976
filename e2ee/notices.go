package e2ee

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/internal/strictjson"
)

// Notices are warnings as messages in the rooms that they are about, for people whose
// client knows nothing of the proxy. They exist between the proxy and its client only:
//
//   - Their sender and IDs belong to a server name under .invalid, which cannot exist (RFC
//     6761), so no homeserver has such a user or event; a forged one is withheld (package
//     interceptors).
//   - They never go upstream, and no pagination token names them.
//   - Each device of the account gets each notice once, until the client syncs from a
//     response that carried it, and again after an initial sync.
const (
	// NoticeServer is the server name in the IDs of notices.
	NoticeServer = "e2ee-proxy.invalid"
	// NoticeSender is the sender of notices.
	NoticeSender = id.UserID("@warnings:" + NoticeServer)
	// NoticeName is the display name of NoticeSender.
	NoticeName = "Encryption proxy"

	// maxNotices bounds the warnings in one response, maxNoticeRooms the rooms that show
	// one.
	maxNotices     = 20
	maxNoticeRooms = 50
)

// IsNoticeName reports whether an event or a user ID is one that only the proxy may use.
func IsNoticeName(name string) bool { return strings.HasSuffix(name, ":"+NoticeServer) }

// noticeID returns the event ID of a warning's notice in a room.
func noticeID(warning string, room id.RoomID) id.EventID {
	sum := sha256.Sum256([]byte(warning + "\x00" + room.String()))
	return id.EventID("$" + hex.EncodeToString(sum[:16]) + ":" + NoticeServer)
}

// notice returns a warning as an event.
func notice(w *Warning, room id.RoomID) json.RawMessage {
	about := strictjson.Object{{Name: "id", Value: strictjson.Quote(w.ID)}, {Name: "code", Value: strictjson.Quote(w.Code)}}
	if w.UserID != "" {
		about = append(about, strictjson.Member{Name: "user_id", Value: strictjson.Quote(w.UserID.String())})
	}
	return strictjson.Object{
		{Name: "type", Value: strictjson.Quote("m.room.message")},
		{Name: "event_id", Value: strictjson.Quote(noticeID(w.ID, room).String())},
		{Name: "sender", Value: strictjson.Quote(NoticeSender.String())},
		{Name: "origin_server_ts", Value: json.RawMessage(strconv.FormatInt(w.Since.UnixMilli(), 10))},
		{Name: "content", Value: strictjson.Object{{Name: "msgtype", Value: strictjson.Quote("m.notice")}, {Name: "body", Value: strictjson.Quote(w.Message)}}.Encode()},
		{Name: "unsigned", Value: strictjson.Object{{Name: "dev.e2ee-proxy.warning", Value: about.Encode()}}.Encode()},
	}.Encode()
}

// deviceMeta is the Meta of a proxied device's row.
type deviceMeta struct {
	// Notices are the warnings that were shown: the next_batch of the response that carried
	// them, with the prefix gotNotice once the client has synced from it.
	Notices map[string]string `json:"notices,omitempty"`
	// Begun are those that began Olm sessions and were given no room key since; see
	// begun.go.
	Begun []id.Curve25519 `json:"begun,omitempty"`
	// Fallback is the fallback key that the homeserver is known to have; see fallback.go.
	Fallback id.Curve25519 `json:"fallback,omitempty"`
}

// gotNotice is the prefix that marks a notice as received.
const gotNotice = "="

// loadNotices reads which notices were shown. If it cannot be read, all are shown again.
func loadNotices(meta json.RawMessage) map[string]string {
	var m deviceMeta
	if json.Unmarshal(meta, &m) != nil || m.Notices == nil {
		return make(map[string]string)
	}
	return m.Notices
}

// noticesWait reports whether the next response to a client that syncs from since must show
// notices.
func (c *clientState) noticesWait(ctx context.Context, since string) (bool, error) {
	warnings, err := c.host.placed(ctx)
	if err != nil {
		return false, err
	}
	c.Mu.Lock()
	defer c.Mu.Unlock()
	for i := range warnings {
		if c.toShow(&warnings[i], since) {
			return true, nil
		}
	}
	return false, nil
}

// toShow reports whether a notice belongs into the next response. The caller holds mu.
func (c *clientState) toShow(w *Warning, since string) bool {
	return len(w.RoomIDs) > 0 && (since == "" || !strings.HasPrefix(gotBy(c.noticed[w.ID], since), gotNotice))
}

// gotBy returns the state of a notice once the client syncs from since: it has received
// what that response carried.
func gotBy(at, since string) string {
	if at == since && since != "" {
		return gotNotice + at
	}
	return at
}

// noticesFor returns the notices for a response, and stores that it carries them and which
// ones the client has received. After a crash before that, notices are shown twice at most.
func (c *clientState) noticesFor(ctx context.Context, since, next string) (map[id.RoomID][]json.RawMessage, error) {
	warnings, err := c.host.placed(ctx)
	if err != nil {
		return nil, err
	}
	c.Mu.Lock()
	defer c.Mu.Unlock()
	out := make(map[id.RoomID][]json.RawMessage)
	noticed := make(map[string]string, len(warnings))
	shown := 0
	for i := range warnings {
		w := &warnings[i]
		// A notice whose rooms are unknown at the moment was shown nevertheless, except
		// after an initial sync.
		if at, known := c.noticed[w.ID]; known && since != "" {
			noticed[w.ID] = gotBy(at, since)
		}
		if !c.toShow(w, since) || shown == maxNotices {
			continue
		}
		shown++
		noticed[w.ID] = next
		for _, room := range w.RoomIDs {
			out[room] = append(out[room], notice(w, room))
		}
	}
	if maps.Equal(noticed, c.noticed) {
		return out, nil
	}
	s := c.Begin()
	if s.Row().Meta, err = json.Marshal(deviceMeta{Notices: noticed, Begun: c.host.begunToKeep(), Fallback: c.host.servedFallback()}); err != nil {
		return nil, fmt.Errorf("encode notices: %w", err)
	}
	s.After(func() { c.noticed = noticed })
	if err := s.Commit(ctx, "notices"); err != nil {
		return nil, err
	}
	return out, nil
}

// placed returns the pending warnings with the rooms that show them, as far as known.
func (d *Device) placed(ctx context.Context) ([]Warning, error) {
	if d.acct.Settings().NoNotices {
		return nil, nil
	}
	all, err := d.warnings(ctx)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	d.acct.mu.Lock()
	own := d.acct.noticeRoom
	d.acct.mu.Unlock()
	for i := range all {
		w := &all[i]
		if own != "" && (w.UserID == "" || w.UserID == d.acct.User) {
			w.RoomIDs = []id.RoomID{own}
		}
		w.RoomIDs = w.RoomIDs[:min(len(w.RoomIDs), maxNoticeRooms)]
	}
	return all, nil
}

// Notice returns a pending notice by its event ID.
func (d *Device) Notice(ctx context.Context, room id.RoomID, event id.EventID) (json.RawMessage, bool, error) {
	w, err := d.noticeOf(ctx, room, event)
	if err != nil || w == nil {
		return nil, false, err
	}
	return notice(w, room), true, nil
}

// NoticePlace returns the sync position after which the client was shown a notice, empty if
// it was not: events up to that position are older than the notice.
func (d *Device) NoticePlace(ctx context.Context, room id.RoomID, event id.EventID) (string, error) {
	w, err := d.noticeOf(ctx, room, event)
	if err != nil || w == nil {
		return "", err
	}
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	return strings.TrimPrefix(d.clientState.noticed[w.ID], gotNotice), nil
}

// noticeOf returns the pending warning of a notice; nil when there is none.
func (d *Device) noticeOf(ctx context.Context, room id.RoomID, event id.EventID) (*Warning, error) {
	if d.core.Mode != core.ModeProxied {
		return nil, nil
	}
	warnings, err := d.placed(ctx)
	if err != nil {
		return nil, err
	}
	for i := range warnings {
		if slices.Contains(warnings[i].RoomIDs, room) && noticeID(warnings[i].ID, room) == event {
			return &warnings[i], nil
		}
	}
	return nil, nil
}

// clientState is what waits for the client's next sync.
type clientState struct {
	*part
	host clientStateHost

	arrived chan struct{}     // closed when something arrives
	noticed map[string]string // see deviceMeta
}

// clientStateHost is what clientState needs of the other parts.
type clientStateHost interface {
	begunToKeep() []id.Curve25519
	placed(ctx context.Context) ([]Warning, error)
	servedFallback() id.Curve25519
}
