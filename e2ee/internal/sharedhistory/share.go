package sharedhistory

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto/attachment"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/auditing"
	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/e2ee/internal/orgrules"
	"e2ee-proxy/e2ee/internal/ownidentity"
	"e2ee-proxy/e2ee/internal/rooms"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/audit"
	"e2ee-proxy/internal/rules"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

const (
	// fetchWithin is how long the keys are waited for that only the backup has.
	fetchWithin = 5 * time.Second
	// filePatience is added to the timeout of a request that carries a bundle.
	filePatience = time.Minute
)

// Share gives a user, who is about to be invited, the keys of a room's history that may be
// passed on: the bundle should be with the invitee before the invitation is. It never fails the
// invitation, and does not hold it up for longer than a bound: why nothing was shared is logged
// and counted, and a bundle that is ready later is sent all the same, as invitees take it for a
// day.
func (h *History) Share(ctx context.Context, room id.RoomID, user id.UserID) {
	if h.Mode != core.ModeProxied || user == h.Account.User {
		return
	}
	h.within(ctx, h.bounds.shareWithin, func(ctx context.Context) {
		sent, err := h.share(ctx, room, user)
		switch {
		case err != nil:
			h.count(resultNotSent)
			h.Env.Log.Info().Err(err).Msg("The history of a room was not shared with somebody who is invited")
		case sent:
			h.count(resultSent)
		}
	})
}

// share is Share, and reports whether a bundle was sent.
func (h *History) share(ctx context.Context, room id.RoomID, user id.UserID) (sent bool, err error) {
	if how, err := h.parts.Rooms.Encryption(ctx, room); err != nil || how != rooms.Encrypted {
		return false, err
	}
	if err := h.host.MayShareHistory(ctx); err != nil {
		return false, err
	}
	give, err := h.turns.Take(ctx, sharing)
	if err != nil {
		return false, err
	}
	defer give()
	if h.parts.Identity.State() != ownidentity.Signed {
		return false, errNotSigned
	}
	before, err := h.audience(ctx, room)
	if err != nil || !rooms.Shareable(before.Visibility) {
		return false, err
	}
	devices, err := h.invitees(ctx, room, user)
	if err != nil {
		return false, err
	}
	h.fetchRoom(ctx, room)
	free, err := h.bounds.take(ctx)
	if err != nil {
		return false, err
	}
	defer free()
	raw, own, err := h.collect(ctx, room)
	if err != nil || raw == nil {
		return false, err
	}
	message, err := h.upload(ctx, room, raw)
	if err != nil {
		return false, err
	}
	return true, h.send(ctx, room, user, devices, before, message, own)
}

// fetchRoom takes what only the backup has (requirement 17.5). What is here is shared also
// when that fails.
func (h *History) fetchRoom(ctx context.Context, room id.RoomID) {
	ctx, cancel := context.WithTimeout(ctx, fetchWithin)
	defer cancel()
	if err := h.parts.Backup.FetchRoom(ctx, room); err != nil {
		h.Env.Log.Info().Err(err).Msg("History is shared without the room keys that only the backup has")
	}
}

// invitees returns the devices of a user that may have the history, after asking the
// homeserver: it reports no changes of somebody without a common room.
func (h *History) invitees(ctx context.Context, room id.RoomID, user id.UserID) ([]*trustcache.Device, error) {
	known, err := h.Account.Tracker.Query(ctx, h.Query(), []id.UserID{user})
	if err != nil {
		return nil, fmt.Errorf("look up who is invited: %w", err)
	}
	own, err := h.Account.Tracker.Own(ctx)
	if err != nil {
		return nil, fmt.Errorf("look at the own identity: %w", err)
	}
	if known[user].Knowledge != trustcache.KnowledgeFresh {
		return nil, errUnreachable
	}
	if trustcache.Gate([]*trustcache.User{own, known[user]}, trustcache.ModeEnforce).Outcome != trustcache.GateAllow {
		return nil, errIdentity
	}
	by := h.Env.Rules.Now()
	facts, err := h.parts.Rooms.Facts(ctx, by, room, rules.SendKey)
	if err != nil {
		return nil, fmt.Errorf("look at the room for the organisation's rules: %w", err)
	}
	devices := allowed(known[user])
	questions := make([]rules.Question, len(devices))
	for i, d := range devices {
		questions[i] = orgrules.KeyQuestion(h.Account.User, known[user], d, facts)
	}
	answers, err := by.Ask(ctx, questions)
	if err != nil {
		return nil, err
	}
	n := -1
	devices = slices.DeleteFunc(devices, func(*trustcache.Device) bool { n++; return answers[n].Effect != rules.Allow })
	if len(devices) == 0 {
		return nil, errNobody
	}
	return devices, nil
}

func allowed(u *trustcache.User) []*trustcache.Device {
	var devices []*trustcache.Device
	for i := range u.Devices {
		if d := &u.Devices[i]; trustcache.MayGetHistory(u, d) {
			devices = append(devices, d)
		}
	}
	return devices
}

// dated is an entry of a bundle, and when its key came.
type dated struct {
	entry []byte
	at    time.Time
}

// collect returns the bundle of a room; nil when there is nothing to share. own reports whether
// a key of this device's own is in it. If there are too many keys, the newest are taken.
func (h *History) collect(ctx context.Context, room id.RoomID) (raw []byte, own bool, err error) {
	var keys, notes []dated
	for row, err := range h.Env.Store.InboundSessionsOfRoom(ctx, h.Account.Row, h.RowID, room) {
		if err != nil {
			return nil, false, fmt.Errorf("load room keys: %w", err)
		}
		entry, shared, err := entryOf(&row)
		switch {
		case err != nil:
			return nil, false, err
		case entry == nil:
		case shared:
			keys = newest(append(keys, dated{entry, row.ReceivedAt}), maxKeys, 2*maxKeys)
			own = own || megolm.WhoseOwner(row.Owner).Curve25519 == h.Curve25519
		default:
			notes = newest(append(notes, dated{entry, row.ReceivedAt}), maxNotes, 2*maxNotes)
		}
	}
	if len(keys) == 0 {
		return nil, false, nil
	}
	return writeBundle(entries(newest(keys, maxKeys, maxKeys)), entries(newest(notes, maxNotes, maxNotes))), own, nil
}

// newest returns the newest entries, n of them, if there are more than limit.
func newest(all []dated, n, limit int) []dated {
	if len(all) <= limit {
		return all
	}
	slices.SortFunc(all, func(a, b dated) int { return cmp.Compare(b.at.UnixNano(), a.at.UnixNano()) })
	return all[:n]
}

func entries(all []dated) [][]byte {
	out := make([][]byte, len(all))
	for i := range all {
		out[i] = all[i].entry
	}
	return out
}

// upload encrypts a bundle in its place, stores it in the media repository, and returns the
// content of the message that says where it is.
func (h *History) upload(ctx context.Context, room id.RoomID, raw []byte) (json.RawMessage, error) {
	sealed := attachment.NewEncryptedFile()
	sealed.EncryptInPlace(raw)
	var stored struct {
		URL id.ContentURIString `json:"content_uri"`
	}
	err := h.Env.Homeserver.Stream(ctx, h.CurrentToken(), wire.Request{
		Op: "upload a bundle of room keys", Method: http.MethodPost, Path: mautrix.MediaURLPath{"v3", "upload"},
		File: raw, Patient: filePatience,
	}, func(body io.Reader) error {
		if json.NewDecoder(io.LimitReader(body, 64<<10)).Decode(&stored) != nil {
			return errUnusable
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	at := content{RoomID: room, File: file{EncryptedFile: *sealed, URL: stored.URL}}
	if _, err := at.File.place(); err != nil {
		return nil, err
	}
	out, err := json.Marshal(at)
	if err != nil {
		return nil, fmt.Errorf("encode a room key bundle: %w", err)
	}
	return bytes.Clone(out), nil
}

// send tells devices where the bundle is, and how it is encrypted. Whether they may have it is
// decided again, from memory. The own key of the room was given to somebody who may never come
// into it, so the next message has another.
func (h *History) send(ctx context.Context, room id.RoomID, user id.UserID, devices []*trustcache.Device, before *audience, message json.RawMessage, own bool) error {
	claimed, err := h.parts.Channel.ClaimFor(ctx, devices)
	if err != nil {
		return fmt.Errorf("claim one-time keys: %w", err)
	}
	if _, err := h.audience(ctx, room); err != nil { // so that memory has what is decided by
		return err
	}
	if err := h.seal(ctx, room, user, devices, before, message, claimed, own); err != nil {
		return err
	}
	if err := h.parts.Channel.FlushOutbox(ctx); err != nil {
		return fmt.Errorf("deliver a room key bundle: %w", err) // the outbox has it
	}
	return nil
}

func (h *History) seal(ctx context.Context, room id.RoomID, user id.UserID, devices []*trustcache.Device, before *audience, message json.RawMessage, claimed map[store.DeviceRef]id.Curve25519, own bool) error {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	if err := h.stillMay(ctx, room, user, devices); err != nil {
		return err
	}
	if !h.stillInvited(room, user, before) {
		return errWithdrawn
	}
	s := h.Begin()
	sealed, without, err := h.parts.Channel.EncryptAll(ctx, s, "m.room_key_bundle", message, devices, claimed)
	if err != nil {
		return err
	}
	for _, dev := range without {
		h.parts.Channel.RememberNoKeys(dev)
	}
	if len(sealed) == 0 {
		return errNobody
	}
	if own {
		h.parts.Outbound.DiscardOutbound(s, room)
	}
	if s.Changes.Audit, err = h.decided(ctx, room, user, sealed); err != nil {
		return err
	}
	s.Changes.Outbox = olm.AboutItems(olm.About{Kind: olm.KindHistory, Room: room}, sealed, h.Env.Now())
	s.After(h.parts.Channel.OutboxFilled)
	return s.Commit(ctx, "a room key bundle")
}

// decided returns what the audit log is told: which devices of a user are told of a bundle,
// and which are not. The caller holds the device's lock.
func (h *History) decided(ctx context.Context, room id.RoomID, user id.UserID, sealed []olm.Message) ([]*audit.Record, error) {
	out := auditing.Begin(h.Device, audit.KindHistory)
	if out == nil {
		return nil, nil
	}
	known, err := h.Account.Tracker.Cached(ctx, []id.UserID{user})
	if err != nil {
		return nil, fmt.Errorf("look again at who is invited: %w", err)
	}
	out.InRoom(room, "", 0)
	by := h.Env.Rules.Now()
	ask, facts := by.Again(), h.parts.Rooms.FactsLocked(by, room, rules.SendKey)
	for i := range known[user].Devices {
		dev := &known[user].Devices[i]
		to := func(m olm.Message) bool { return m.To.DeviceID == dev.DeviceID }
		switch {
		case slices.ContainsFunc(sealed, to):
			out.Add(known[user], dev, audit.Given, "", auditing.Rule(known[user], dev, true))
		case trustcache.MayGetHistory(known[user], dev):
			why := auditing.RuleNoChannel
			q := orgrules.KeyQuestion(h.Account.User, known[user], dev, facts)
			if answer := ask(&q); answer.Effect != rules.Allow {
				why = orgrules.Reason(answer)
			}
			out.Add(known[user], dev, audit.Refused, "", why)
		default:
			out.Add(known[user], dev, audit.Refused, "", auditing.Rule(known[user], dev, false))
		}
	}
	return out.Records(), nil
}

// stillMay returns why the history may not be shared any more. The message must carry this
// device's keys (requirement 17.6). The caller holds the device's lock.
func (h *History) stillMay(ctx context.Context, room id.RoomID, user id.UserID, devices []*trustcache.Device) error {
	if h.parts.Identity.StateLocked() != ownidentity.Signed || h.parts.Identity.ShownKeysLocked() == nil {
		return errNotSigned
	}
	known, err := h.Account.Tracker.Cached(ctx, []id.UserID{user})
	if err != nil {
		return fmt.Errorf("look again at who is invited: %w", err)
	}
	own, err := h.Account.Tracker.Own(ctx)
	if err != nil {
		return fmt.Errorf("look again at the own identity: %w", err)
	}
	if trustcache.Gate([]*trustcache.User{own, known[user]}, trustcache.ModeEnforce).Outcome != trustcache.GateAllow {
		return errIdentity
	}
	by := h.Env.Rules.Now()
	ask, facts := by.Again(), h.parts.Rooms.FactsLocked(by, room, rules.SendKey)
	for _, dev := range devices {
		now := known[user].Device(dev.DeviceID)
		if !trustcache.MayGetHistory(known[user], now) || now.Curve25519 != dev.Curve25519 || now.Ed25519 != dev.Ed25519 {
			return errChanged
		}
		if q := orgrules.KeyQuestion(h.Account.User, known[user], now, facts); ask(&q).Effect != rules.Allow {
			return errChanged
		}
	}
	return nil
}
