package e2ee

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// What the policy did and, while a direction is on "warn", what enforcing it would have
// done: metrics count it for all accounts, and the status shows it to each account by room,
// so that an administrator can decide when to enforce it (docs/msc4153.md).

// Outcomes, as named in metrics.
const (
	outcomeAllowed       = "allowed"
	outcomeBlocked       = "blocked"
	outcomeWouldBlock    = "would_block"
	outcomeShared        = "shared"
	outcomeShown         = "shown"
	outcomeWithheld      = "withheld"
	outcomeWouldWithhold = "would_withhold"
)

const (
	// maxRolloutRooms and maxRolloutDevices bound what an account remembers for status.
	maxRolloutRooms   = 500
	maxRolloutDevices = 1000
)

// rollout is what enforcing the policy would have done to an account since the process
// started.
type rollout struct {
	since time.Time // when this process first used the account

	mu    locks.Mutex
	rooms map[id.RoomID]*roomRollout
	full  bool // further rooms are not remembered
}

type roomRollout struct {
	keys    map[store.DeviceRef]struct{} // devices that would get no key
	senders map[store.DeviceRef]struct{} // devices whose messages would be held back
	blocked map[id.UserID]struct{}
	events  int
}

// room returns the entry of a room, nil when there are too many. The caller holds r.mu.
func (r *rollout) room(roomID id.RoomID) *roomRollout {
	if r.rooms == nil {
		r.rooms = make(map[id.RoomID]*roomRollout)
	}
	one := r.rooms[roomID]
	if one == nil {
		if len(r.rooms) >= maxRolloutRooms {
			r.full = true
			return nil
		}
		one = &roomRollout{
			keys: make(map[store.DeviceRef]struct{}), senders: make(map[store.DeviceRef]struct{}), blocked: make(map[id.UserID]struct{}),
		}
		r.rooms[roomID] = one
	}
	return one
}

func addTo[K comparable](set map[K]struct{}, k K) {
	if len(set) < maxRolloutDevices {
		set[k] = struct{}{}
	}
}

// countGate counts a decision about a send.
func (d *Device) countGate(roomID id.RoomID, decision *trustcache.GateDecision) {
	outcome := outcomeAllowed
	switch {
	case decision.Outcome != trustcache.GateAllow:
		outcome = outcomeBlocked
	case decision.Enforced != trustcache.GateAllow:
		outcome = outcomeWouldBlock
		r := &d.acct.rollout
		r.mu.Lock()
		defer r.mu.Unlock()
		if room := r.room(roomID); room != nil {
			for i := range decision.Blocked {
				addTo(room.blocked, decision.Blocked[i].UserID)
			}
		}
	}
	d.core.Env.Counts.Sends.WithLabelValues(outcome).Inc()
}

// recordUnenforced remembers the devices that can read a send and could not if the policy
// were enforced, whenever they got the key.
func (d *Device) recordUnenforced(roomID id.RoomID, who *eligible) {
	if len(who.against) == 0 {
		return
	}
	r := &d.acct.rollout
	r.mu.Lock()
	defer r.mu.Unlock()
	if room := r.room(roomID); room != nil {
		for ref := range who.against {
			addTo(room.keys, ref)
		}
	}
}

// countShares counts the devices that got a room key or a withheld code.
func (d *Device) countShares(who *eligible, given []store.Share) {
	for i := range given {
		outcome := outcomeShared
		switch {
		case given[i].Withheld != "":
			outcome = outcomeWithheld
		case who.against[store.DeviceRef{UserID: given[i].UserID, DeviceID: given[i].DeviceID}]:
			outcome = outcomeWouldWithhold
		}
		d.core.Env.Counts.Shares.WithLabelValues(outcome).Inc()
	}
}

// countVerdict counts a verdict about an event.
func (d *Device) countVerdict(job *eventJob, owner trustcache.Owner, v trustcache.Verdict) {
	outcome := outcomeShown
	switch {
	case v.Deliver == trustcache.DeliverWithheld:
		outcome = outcomeWithheld
	case v.Enforced == trustcache.DeliverWithheld:
		outcome = outcomeWouldWithhold
		r := &d.acct.rollout
		r.mu.Lock()
		defer r.mu.Unlock()
		if room := r.room(job.room); room != nil {
			room.events++
			addTo(room.senders, store.DeviceRef{UserID: owner.UserID, DeviceID: owner.DeviceID})
		}
	}
	d.core.Env.Counts.Events.WithLabelValues(outcome).Inc()
}

// PolicyStatus is how strictly the policy is applied now, and what enforcing it would have
// done.
type PolicyStatus struct {
	Send    string `json:"send"`
	Receive string `json:"receive"`
	// Would is nil while nothing is on "warn".
	Would *WouldHave `json:"would_have,omitempty"`
}

// WouldHave is what enforcing the policy would have done to the account since a time.
type WouldHave struct {
	Since time.Time       `json:"since"`
	Rooms []RoomWouldHave `json:"rooms"`
	// More reports whether there are more rooms than are remembered.
	More bool `json:"more,omitempty"`
}

// RoomWouldHave is WouldHave for one room.
type RoomWouldHave struct {
	RoomID id.RoomID `json:"room_id"`
	// BlockedBy are the users whose identity change would have blocked sending.
	BlockedBy []id.UserID `json:"blocked_by"`
	// WithoutKey is how many devices would not have got the room's keys.
	WithoutKey int `json:"devices_without_key"`
	// Messages would have been held back, from so many Devices.
	Messages int `json:"messages_held_back"`
	Devices  int `json:"devices_held_back"`
}

func (d *Device) policyStatus() *PolicyStatus {
	policy := d.core.Env.Policy()
	out := &PolicyStatus{Send: modeName(policy.Send), Receive: modeName(policy.Receive)}
	if policy.Send != trustcache.ModeWarn && policy.Receive != trustcache.ModeWarn {
		return out
	}
	r := &d.acct.rollout
	r.mu.Lock()
	defer r.mu.Unlock()
	would := &WouldHave{Since: r.since.UTC().Truncate(time.Second), Rooms: make([]RoomWouldHave, 0, len(r.rooms)), More: r.full}
	for roomID, room := range r.rooms {
		would.Rooms = append(would.Rooms, RoomWouldHave{
			RoomID: roomID, BlockedBy: slices.AppendSeq([]id.UserID{}, maps.Keys(room.blocked)),
			WithoutKey: len(room.keys), Messages: room.events, Devices: len(room.senders),
		})
	}
	for i := range would.Rooms {
		slices.Sort(would.Rooms[i].BlockedBy)
	}
	slices.SortFunc(would.Rooms, func(a, b RoomWouldHave) int { return cmp.Compare(a.RoomID, b.RoomID) })
	out.Would = would
	return out
}

func modeName(m trustcache.Mode) string {
	switch m {
	case trustcache.ModeEnforce:
		return "enforce"
	case trustcache.ModeWarn:
		return "warn"
	case trustcache.ModeOff:
		return "off"
	default:
		return "enforce"
	}
}
