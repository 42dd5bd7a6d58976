package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/live"
	"e2ee-proxy/e2ee/internal/moves"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/backoff"
)

const (
	// ownPoll is how long the proxy's own sync waits at the homeserver.
	ownPoll = 30 * time.Second
	// timelineLimit is how many membership and encryption events per room an own sync
	// accepts before the room is limited, which costs a rotation at most.
	timelineLimit = 100
	// loopGrace is how long the loop waits when it starts: a client often begins with a
	// sync, which would end ours at once.
	loopGrace = 5 * time.Millisecond
)

// verificationTypes are those of events that can belong to verifications, each by its name:
// Dendrite knows no patterns in filters.
const verificationTypes = `"m.room.encrypted","m.room.message",` +
	`"m.key.verification.ready","m.key.verification.start","m.key.verification.accept","m.key.verification.key",` +
	`"m.key.verification.mac","m.key.verification.done","m.key.verification.cancel"`

// ownFilter returns the filter of the proxy's own syncs: only what the engine needs, with
// messages only where verifications may be among them. The first sync leaves out members: they
// are fetched when something is first sent to the room.
func ownFilter(initial, messages bool) string {
	types := `["m.room.encryption","m.room.history_visibility","m.room.member"]`
	state, limit := types, timelineLimit
	if messages {
		types = `["m.room.encryption","m.room.history_visibility","m.room.member",` + verificationTypes + `]`
	}
	if initial {
		state, limit = `["m.room.encryption","m.room.history_visibility"]`, 1
	}
	return `{"presence":{"types":[]},"account_data":{"types":["m.secret_storage.default_key","m.key_backup","m.megolm_backup.v1"]},` +
		`"room":{"ephemeral":{"types":[]},"account_data":{"types":[]},"state":{"types":` + state +
		`},"timeline":{"types":` + types + `,"limit":` + strconv.Itoa(limit) + `}}}`
}

// ownSync is the response to the proxy's own sync.
type ownSync struct {
	NextBatch string `json:"next_batch"`
	ToDevice  struct {
		Events []json.RawMessage `json:"events"`
	} `json:"to_device"`
	DeviceLists struct {
		Changed []id.UserID `json:"changed"`
		Left    []id.UserID `json:"left"`
	} `json:"device_lists"`
	OneTimeKeys map[string]int `json:"device_one_time_keys_count"`
	Fallback    []string       `json:"device_unused_fallback_key_types"`
	AccountData struct {
		Events []json.RawMessage `json:"events"`
	} `json:"account_data"`
	Rooms struct {
		Join  map[id.RoomID]ownRoom `json:"join"`
		Leave map[id.RoomID]ownRoom `json:"leave"`

		Invite map[id.RoomID]struct {
			State struct {
				Events []ownEvent `json:"events"`
			} `json:"invite_state"`
		} `json:"invite"`
	} `json:"rooms"`
}

type ownRoom struct {
	State struct {
		Events []ownEvent `json:"events"`
	} `json:"state"`
	Timeline struct {
		Events  []ownEvent `json:"events"`
		Limited bool       `json:"limited"`
	} `json:"timeline"`
}

type ownEvent struct {
	Type     string          `json:"type"`
	StateKey *string         `json:"state_key"`
	Content  json.RawMessage `json:"content"`
	Sender   id.UserID       `json:"sender"`
	// ID and At may be anything: an event must not end a sync.
	ID json.RawMessage `json:"event_id"`
	At json.RawMessage `json:"origin_server_ts"`
}

// update reduces the response to what matters to encryption.
func (s *ownSync) update(since string, own id.UserID) SyncUpdate {
	u := SyncUpdate{
		Since: since, NextBatch: s.NextBatch, ToDevice: s.ToDevice.Events,
		Changed: s.DeviceLists.Changed, Left: s.DeviceLists.Left,
		OneTimeKeys: s.OneTimeKeys, UnusedFallback: s.Fallback, AccountData: s.AccountData.Events,
	}
	add := func(section Section, rooms map[id.RoomID]ownRoom) {
		for roomID, r := range rooms {
			ru := RoomUpdate{RoomID: roomID, Section: section, Limited: r.Timeline.Limited && since != ""}
			for _, list := range [][]ownEvent{r.State.Events, r.Timeline.Events} {
				for _, ev := range list {
					if ev.StateKey != nil {
						ru.Changes = append(ru.Changes, StateChange{Type: ev.Type, StateKey: *ev.StateKey, Content: ev.Content})
					}
				}
			}
			u.Rooms = append(u.Rooms, ru)
		}
	}
	add(SectionJoin, s.Rooms.Join)
	add(SectionLeave, s.Rooms.Leave)
	for roomID, r := range s.Rooms.Invite {
		ru := RoomUpdate{RoomID: roomID, Section: SectionInvite}
		for _, ev := range r.State.Events {
			if ev.Type == wire.TypeMember && ev.StateKey != nil && *ev.StateKey == own.String() {
				ru.Inviter = ev.Sender
			}
		}
		u.Rooms = append(u.Rooms, ru)
	}
	return u
}

// syncLoop syncs for the device while its client does not. It ends with ctx, when the
// device falls asleep, or when the homeserver no longer knows the token; the next request
// of a client with a token starts it again.
func (d *Device) syncLoop(ctx context.Context) {
	var failures backoff.Pauses
	_ = d.publication.Await(ctx) // ends with ctx, like everything below
	select {
	case <-ctx.Done():
	case <-time.After(loopGrace):
	}
	for {
		busy := d.schedule.Live.AwaitQuiet(ctx, d.core.Env.Now, d.eng.opts.OwnSyncAfter)
		if !d.schedule.LoopContinues(ctx) {
			return
		}
		if busy != nil {
			continue
		}
		token := d.core.CurrentToken()
		err := d.core.Env.Survive(func() error {
			_, err := d.syncOnce(ctx, ownPoll)
			return err
		})
		switch {
		case err == nil:
			failures.Reset()
			continue
		case errors.Is(err, live.ErrClientSyncs):
			continue
		case ctx.Err() != nil:
			continue
		case d.tokenGone(token, err):
			d.loopFailed()
			return
		}
		pause := core.PauseAfter(err, failures.Next(core.SyncPauses()), core.SyncPauses())
		d.core.Env.Log.Debug().Err(err).Dur("retry_in", pause).Msg("Own sync failed")
		_ = backoff.Wait(ctx, pause) // loopContinues checks ctx
	}
}

// syncOnce makes one sync of the proxy's own and stores its effects. It returns the number
// of to-device messages received.
func (d *Device) syncOnce(ctx context.Context, timeout time.Duration) (int, error) {
	give, err := d.schedule.SyncTurn.Take(ctx, struct{}{})
	if err != nil {
		return 0, err
	}
	defer give()
	pollCtx := ctx
	if timeout > 0 {
		var cancel context.CancelCauseFunc
		pollCtx, cancel = context.WithCancelCause(ctx)
		defer cancel(nil)
		if !d.schedule.Live.OwnBegins(d.core.Env.Now(), func() { cancel(live.ErrClientSyncs) }) {
			return 0, live.ErrClientSyncs
		}
		defer d.schedule.Live.OwnEnds()
	}
	watches, err := d.watchesRooms(ctx)
	if err != nil {
		return 0, err
	}
	d.core.Mu.Lock()
	since, began := d.core.Record.Row.SyncPosition, d.core.News
	d.withoutMessages = !watches
	d.core.Mu.Unlock()
	query := map[string]string{
		"filter": ownFilter(since == "", watches && since != ""), "set_presence": "offline",
		"timeout": strconv.FormatInt(timeout.Milliseconds(), 10),
	}
	if since == "" {
		query["timeout"] = "0"
	} else {
		query["since"] = since
	}
	var resp ownSync
	err = d.core.Call(pollCtx, wire.Request{
		Op: "sync", Method: http.MethodGet, Path: mautrix.ClientURLPath{"v3", "sync"},
		Query: query, Result: &resp, Patient: timeout, Large: true,
	})
	if err != nil {
		if errors.Is(context.Cause(pollCtx), live.ErrClientSyncs) {
			return 0, live.ErrClientSyncs
		}
		return 0, err
	}
	update, err := d.withEarlierChanges(ctx, resp.update(since, d.acct.User), true)
	if err != nil {
		return 0, err
	}
	switch _, err = d.ingest(ctx, update, true, began); {
	case err != nil:
	case watches:
		d.hearOwn(ctx, resp.Rooms.Join)
	case timeout > 0 && since != "":
		if err := d.listen(pollCtx, since); err != nil {
			d.core.Env.Log.Debug().Err(err).Msg("Requests to verify in rooms are looked for with the next sync")
		}
	}
	return len(resp.ToDevice.Events), err
}

// maxCatchUp bounds the syncs of one catchUp. A homeserver sends to-device messages in
// portions.
const maxCatchUp = 100

// catchUp syncs until everything that the homeserver had for the device is processed,
// stored and acknowledged. So a client that syncs next, from its own position, does not get
// a to-device message a second time that is kept for it here.
func (d *Device) catchUp(ctx context.Context) error {
	d.schedule.Live.CatchBegins()
	defer d.schedule.Live.CatchEnds()
	d.core.Mu.Lock()
	first := d.core.Record.Row.SyncPosition == ""
	d.core.Mu.Unlock()
	for range maxCatchUp {
		came, err := d.syncOnce(ctx, 0)
		if err != nil || came == 0 && !first {
			return err
		}
		first = false // an initial sync has no device-list changes; they begin with the next
	}
	return nil
}

// What is known of users belongs to the account; the sync position belongs to a device. A
// device that syncs from its position gets all later device-list changes. An initial sync
// has none: the changes since the position of another device of the account are fetched
// with /keys/changes, and if there is no other device, every user counts as changed
// (requirement 4.4).

// withEarlierChanges adds the earlier device-list changes to an update that gives the
// device its first position.
func (d *Device) withEarlierChanges(ctx context.Context, u SyncUpdate, own bool) (SyncUpdate, error) {
	d.core.Mu.Lock()
	first := d.core.Record.Row.SyncPosition == ""
	d.core.Mu.Unlock()
	if _, moves := nextPosition(u, own); !first || !moves {
		return u, nil
	}
	tracked, err := d.core.Env.Store.TrackedUsers(ctx, d.acct.Row)
	if err != nil {
		return u, fmt.Errorf("load tracked users: %w", err)
	}
	if len(tracked) == 0 {
		return u, nil
	}
	changed, left, err := d.changesUntil(ctx, u.NextBatch)
	if err != nil {
		d.core.Env.Log.Info().Err(err).Msg("All device lists are asked for again")
		changed, left = tracked, nil
	}
	u.Changed = slices.Concat(u.Changed, changed)
	u.Left = slices.Concat(u.Left, left)
	return u, nil
}

// changesUntil asks the homeserver for the device-list changes between the position of any
// other device of the account and a position of this one.
func (d *Device) changesUntil(ctx context.Context, to string) (changed, left []id.UserID, err error) {
	devices, err := d.core.Env.Store.Devices(ctx, d.acct.Row)
	if err != nil {
		return nil, nil, fmt.Errorf("load devices: %w", err)
	}
	var from string
	for i := range devices {
		if devices[i].ID != d.core.RowID && devices[i].SyncPosition != "" {
			from = devices[i].SyncPosition
		}
	}
	if from == "" {
		return nil, nil, errNoPosition
	}
	var resp struct {
		Changed []id.UserID `json:"changed"`
		Left    []id.UserID `json:"left"`
	}
	err = d.core.Call(ctx, wire.Request{
		Op: "read device list changes", Method: http.MethodGet, Path: mautrix.ClientURLPath{"v3", "keys", "changes"},
		Query: map[string]string{"from": from, "to": to}, Result: &resp, Large: true,
	})
	if err != nil {
		return nil, nil, err
	}
	return resp.Changed, resp.Left, nil
}

var errNoPosition = errors.New("no other device of the account has a position")

// clientState is what waits for the client's next sync.
type clientState struct {
	*core.Device

	arrived context.Context //nolint:containedctx // done when something arrives; nil while nobody waits
	arrive  context.CancelFunc

	moves moves.State
}

// arrivals returns the context that the next arrival ends. The caller takes it before it
// checks what is ready, so that it misses nothing.
func (c *clientState) arrivals() context.Context {
	c.Mu.Lock()
	defer c.Mu.Unlock()
	if c.arrived == nil {
		c.arrived, c.arrive = context.WithCancel(context.Background())
	}
	return c.arrived
}

// wakeWaiting wakes waiting client syncs. The caller holds mu.
func (c *clientState) wakeWaiting() {
	if c.arrived != nil {
		c.arrive()
		c.arrived, c.arrive = nil, nil
	}
}
