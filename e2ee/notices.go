package e2ee

import (
	"context"
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/late"
	"e2ee-proxy/e2ee/internal/notices"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Notices are warnings as messages in the rooms that they are about; see package notices.
const (
	// NoticeServer is the server name in the IDs of notices.
	NoticeServer = notices.Server
	// NoticeSender is the sender of notices.
	NoticeSender = notices.Sender
	// NoticeName is the display name of NoticeSender.
	NoticeName = notices.SenderName
)

// IsNoticeName reports whether an event or a user ID is one that only the proxy may use.
func IsNoticeName(name string) bool { return notices.IsName(name) }

// Notice returns a pending notice by its event ID.
func (d *Device) Notice(ctx context.Context, room id.RoomID, event id.EventID) (json.RawMessage, bool, error) {
	if d.core.Mode != core.ModeProxied {
		return nil, false, nil
	}
	return d.shown.Notice(ctx, room, event)
}

// NoticePlace returns the sync position after which the client was shown a notice, empty if
// it was not: events up to that position are older than the notice.
func (d *Device) NoticePlace(ctx context.Context, room id.RoomID, event id.EventID) (string, error) {
	if d.core.Mode != core.ModeProxied {
		return "", nil
	}
	return d.shown.Place(ctx, room, event)
}

// Warnings returns the pending warnings, oldest first.
func (d *Device) Warnings(ctx context.Context) ([]Warning, error) {
	if d.core.Mode != core.ModeProxied {
		return nil, core.ErrNotProxied
	}
	return d.acct.warnings.Pending(ctx)
}

// DismissWarning dismisses a warning.
func (d *Device) DismissWarning(ctx context.Context, warning string) error {
	if d.core.Mode != core.ModeProxied {
		return core.ErrNotProxied
	}
	return d.acct.warnings.Dismiss(ctx, d.core, warning)
}

// BegunToKeep implements notices.Host.
func (h host) BegunToKeep() []id.Curve25519 { return h.Olm.BegunToKeep(h.GivenSince) }

// tellRecoveredAlone raises a warning that stays until it is dismissed.
func (d *Device) tellRecoveredAlone(ctx context.Context) error {
	return d.acct.warnings.TellRecoveredAlone(ctx, d.core)
}

// observe turns the tracker's events into warnings and releases withheld events, both
// stored together with what the tracker noticed. The tracker calls it under its lock.
func (a *account) observe(events []trustcache.Event, ch *store.Changes) (stored func()) {
	warned := a.warnings.Observe(events, ch)
	released := late.Release(events, ch)
	switch {
	case warned != nil:
		return warned
	case released:
		return func() { a.eng.alert(a) }
	default:
		return nil
	}
}
