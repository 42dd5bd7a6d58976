package notices

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
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
	// Server is the server name in the IDs of notices.
	Server = "e2ee-proxy.invalid"
	// Sender is the sender of notices.
	Sender = id.UserID("@warnings:" + Server)
	// SenderName is the display name of Sender.
	SenderName = "Encryption proxy"

	// maxNotices bounds the warnings in one response, maxNoticeRooms the rooms that show
	// one.
	maxNotices     = 20
	maxNoticeRooms = 50
)

// IsName reports whether an event or a user ID is one that only the proxy may use.
func IsName(name string) bool { return strings.HasSuffix(name, ":"+Server) }

// noticeID returns the event ID of a warning's notice in a room.
func noticeID(warning string, room id.RoomID) id.EventID {
	sum := sha256.Sum256([]byte(warning + "\x00" + room.String()))
	return id.EventID("$" + hex.EncodeToString(sum[:16]) + ":" + Server)
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
		{Name: "sender", Value: strictjson.Quote(Sender.String())},
		{Name: "origin_server_ts", Value: json.RawMessage(strconv.FormatInt(w.Since.UnixMilli(), 10))},
		{Name: "content", Value: strictjson.Object{{Name: "msgtype", Value: strictjson.Quote("m.notice")}, {Name: "body", Value: strictjson.Quote(w.Message)}}.Encode()},
		{Name: "unsigned", Value: strictjson.Object{{Name: "dev.e2ee-proxy.warning", Value: about.Encode()}}.Encode()},
	}.Encode()
}

// Shown is which notices the client of a device was shown. The device's lock guards it.
type Shown struct {
	*core.Device
	warnings *Account
	host     Host

	noticed map[string]string // as in core.Meta
}

// Host is what Shown needs of the other parts of a device.
type Host interface {
	// BegunToKeep returns what core.Meta says of begun Olm sessions. The caller holds the
	// device's lock.
	BegunToKeep() []id.Curve25519
}

// NewShown returns what is shown of an account's warnings to a client to which nothing was
// shown yet.
func NewShown(dev *core.Device, warnings *Account, host Host) Shown {
	return Shown{Device: dev, warnings: warnings, host: host}
}

// Load reads which notices were shown. If it cannot be read, all are shown again.
func (s *Shown) Load(meta json.RawMessage) {
	if s.noticed = core.ReadMeta(meta).Notices; s.noticed == nil {
		s.noticed = make(map[string]string)
	}
}

// gotNotice is the prefix that marks a notice as received.
const gotNotice = "="

// Waiting reports whether the next response to a client that syncs from since must show
// notices.
func (s *Shown) Waiting(ctx context.Context, since string) (bool, error) {
	warnings, err := s.warnings.placed(ctx)
	if err != nil {
		return false, err
	}
	s.Mu.Lock()
	defer s.Mu.Unlock()
	for i := range warnings {
		if s.toShow(&warnings[i], since) {
			return true, nil
		}
	}
	return false, nil
}

// Stands reports whether a response to a client that syncs on from since lacks notices if a client
// was given its token next before.
func (s *Shown) Stands(ctx context.Context, since, next string) (bool, error) {
	if since == "" {
		return false, nil
	}
	warnings, err := s.warnings.placed(ctx)
	if err != nil {
		return false, err
	}
	s.Mu.Lock()
	defer s.Mu.Unlock()
	for i := range warnings {
		if w := &warnings[i]; s.toShow(w, since) && strings.TrimPrefix(s.noticed[w.ID], gotNotice) != next {
			return true, nil
		}
	}
	return false, nil
}

// toShow reports whether a notice belongs into the next response. The caller holds the
// device's lock.
func (s *Shown) toShow(w *Warning, since string) bool {
	return len(w.RoomIDs) > 0 && (since == "" || !strings.HasPrefix(gotBy(s.noticed[w.ID], since), gotNotice))
}

// gotBy returns the state of a notice once the client syncs from since: it has received
// what that response carried.
func gotBy(at, since string) string {
	if at == since && since != "" {
		return gotNotice + at
	}
	return at
}

// For returns the notices for a response, and stores that it carries them and which
// ones the client has received. After a crash before that, notices are shown twice at most.
// told says that a client was given next before: one that syncs on is shown those that were
// shown with it.
func (s *Shown) For(ctx context.Context, since, next string, told bool) (map[id.RoomID][]json.RawMessage, error) {
	warnings, err := s.warnings.placed(ctx)
	if err != nil {
		return nil, err
	}
	s.Mu.Lock()
	defer s.Mu.Unlock()
	out := make(map[id.RoomID][]json.RawMessage)
	noticed := make(map[string]string, len(warnings))
	shown := 0
	for i := range warnings {
		w := &warnings[i]
		// A notice whose rooms are unknown at the moment was shown nevertheless, except
		// after an initial sync.
		if at, known := s.noticed[w.ID]; known && since != "" {
			noticed[w.ID] = gotBy(at, since)
		}
		if !s.toShow(w, since) || shown == maxNotices || told && since != "" && strings.TrimPrefix(s.noticed[w.ID], gotNotice) != next {
			continue
		}
		shown++
		noticed[w.ID] = next
		for _, room := range w.RoomIDs {
			out[room] = append(out[room], notice(w, room))
		}
	}
	if maps.Equal(noticed, s.noticed) {
		return out, nil
	}
	step := s.Begin()
	if err := step.ChangeMeta(func(m *core.Meta) { m.Notices, m.Begun = noticed, s.host.BegunToKeep() }); err != nil {
		return nil, err
	}
	step.After(func() { s.noticed = noticed })
	if err := step.Commit(ctx, "notices"); err != nil {
		return nil, err
	}
	return out, nil
}

// Notice returns a pending notice by its event ID.
func (s *Shown) Notice(ctx context.Context, room id.RoomID, event id.EventID) (json.RawMessage, bool, error) {
	w, err := s.warnings.noticeOf(ctx, room, event)
	if err != nil || w == nil {
		return nil, false, err
	}
	return notice(w, room), true, nil
}

// Place returns the sync position after which the client was shown a notice, empty if it
// was not: events up to that position are older than the notice.
func (s *Shown) Place(ctx context.Context, room id.RoomID, event id.EventID) (string, error) {
	w, err := s.warnings.noticeOf(ctx, room, event)
	if err != nil || w == nil {
		return "", err
	}
	s.Mu.Lock()
	defer s.Mu.Unlock()
	return strings.TrimPrefix(s.noticed[w.ID], gotNotice), nil
}
