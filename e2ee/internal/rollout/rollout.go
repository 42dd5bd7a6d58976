package rollout

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

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
	// maxRooms and maxDevices bound what an account remembers for status.
	maxRooms   = 500
	maxDevices = 1000
)

// Account is what enforcing the policy would have done to an account since the process
// started. It has a lock of its own.
type Account struct {
	env   *core.Env
	since time.Time // when this process first used the account

	mu    locks.Mutex
	rooms map[id.RoomID]*room
	full  bool // further rooms are not remembered
	// hidden are devices that clients with keys of their own would not be shown, changed users
	// to whom they could not send.
	hidden  map[store.DeviceRef]struct{}
	changed map[id.UserID]struct{}
}

// New returns the record of an account that this process uses from now on.
func New(env *core.Env) Account {
	return Account{env: env, since: env.Now(), mu: locks.Mutex{Place: env.Order.At(locks.RankLeaf)}}
}

type room struct {
	keys    map[store.DeviceRef]struct{} // devices that would get no key
	senders map[store.DeviceRef]struct{} // devices whose messages would be held back
	blocked map[id.UserID]struct{}
	events  int
}

// entry returns the entry of a room, nil when there are too many. The caller holds mu.
func (r *Account) entry(roomID id.RoomID) *room {
	if r.rooms == nil {
		r.rooms = make(map[id.RoomID]*room)
	}
	one := r.rooms[roomID]
	if one == nil {
		if len(r.rooms) >= maxRooms {
			r.full = true
			return nil
		}
		one = &room{
			keys: make(map[store.DeviceRef]struct{}), senders: make(map[store.DeviceRef]struct{}), blocked: make(map[id.UserID]struct{}),
		}
		r.rooms[roomID] = one
	}
	return one
}

func addTo[K comparable](set map[K]struct{}, k K) {
	if len(set) < maxDevices {
		set[k] = struct{}{}
	}
}

// Gate counts a decision about a send.
func (r *Account) Gate(roomID id.RoomID, decision *trustcache.GateDecision) {
	outcome := outcomeAllowed
	switch {
	case decision.Outcome != trustcache.GateAllow:
		outcome = outcomeBlocked
	case decision.Enforced != trustcache.GateAllow:
		outcome = outcomeWouldBlock
		r.mu.Lock()
		defer r.mu.Unlock()
		if one := r.entry(roomID); one != nil {
			for i := range decision.Blocked {
				addTo(one.blocked, decision.Blocked[i].UserID)
			}
		}
	}
	r.env.Counts.Sends.WithLabelValues(outcome).Inc()
}

// Readers remembers the devices that can read a send and could not if the policy were
// enforced (against), whenever they got the key.
func (r *Account) Readers(roomID id.RoomID, against map[store.DeviceRef]bool) {
	if len(against) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if one := r.entry(roomID); one != nil {
		for ref := range against {
			addTo(one.keys, ref)
		}
	}
}

// Shares counts the devices that got a room key or a withheld code; against are those that
// would have got none.
func (r *Account) Shares(against map[store.DeviceRef]bool, given []store.Share) {
	for i := range given {
		outcome := outcomeShared
		switch {
		case given[i].Withheld != "":
			outcome = outcomeWithheld
		case against[store.DeviceRef{UserID: given[i].UserID, DeviceID: given[i].DeviceID}]:
			outcome = outcomeWouldWithhold
		}
		r.env.Counts.Shares.WithLabelValues(outcome).Inc()
	}
}

// Verdict counts a verdict about an event of a room, whose key is owner's.
func (r *Account) Verdict(roomID id.RoomID, owner trustcache.Owner, v trustcache.Verdict) {
	outcome := outcomeShown
	switch {
	case v.Deliver == trustcache.DeliverWithheld:
		outcome = outcomeWithheld
	case v.Enforced == trustcache.DeliverWithheld:
		outcome = outcomeWouldWithhold
		r.mu.Lock()
		defer r.mu.Unlock()
		if one := r.entry(roomID); one != nil {
			one.events++
			addTo(one.senders, store.DeviceRef{UserID: owner.UserID, DeviceID: owner.DeviceID})
		}
	}
	r.env.Counts.Events.WithLabelValues(outcome).Inc()
}

// NativeAnswer counts the devices in an answer to a client with keys of its own.
func (r *Account) NativeAnswer(v *trustcache.NativeView) {
	count := func(outcome string, n int) { r.env.Counts.NativeDevices.WithLabelValues(outcome).Add(float64(n)) }
	count(outcomeShown, v.Shown)
	count(outcomeWithheld, devicesIn(v.Hidden))
	count(outcomeWouldWithhold, devicesIn(v.Would))
	for user, devices := range v.Would {
		for _, device := range devices {
			r.wouldHide(store.DeviceRef{UserID: user, DeviceID: device})
		}
	}
}

func devicesIn(all map[id.UserID][]id.DeviceID) int {
	n := 0
	for _, devices := range all {
		n += len(devices)
	}
	return n
}

func (r *Account) wouldHide(ref store.DeviceRef) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hidden == nil {
		r.hidden = make(map[store.DeviceRef]struct{})
	}
	addTo(r.hidden, ref)
}

// NativeMessage counts a message from a client with keys of its own to a device.
func (r *Account) NativeMessage(to store.DeviceRef, d trustcache.NativeDecision) {
	outcome := outcomeAllowed
	switch {
	case d.Outcome != trustcache.NativeShow:
		outcome = outcomeWithheld
	case d.Enforced != trustcache.NativeShow:
		outcome = outcomeWouldWithhold
		r.wouldHide(to)
	}
	r.env.Counts.NativeMessages.WithLabelValues(outcome).Inc()
}

// NativeGate counts a decision about something that such a client sends, if it was, or would
// be, refused because of changed identities.
func (r *Account) NativeGate(d *trustcache.GateDecision) {
	switch {
	case d.Outcome != trustcache.GateAllow:
		r.env.Counts.NativeMessages.WithLabelValues(outcomeBlocked).Inc()
	case d.Enforced != trustcache.GateAllow:
		r.env.Counts.NativeMessages.WithLabelValues(outcomeWouldBlock).Inc()
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.changed == nil {
			r.changed = make(map[id.UserID]struct{})
		}
		for i := range d.Blocked {
			addTo(r.changed, d.Blocked[i].UserID)
		}
	}
}

// NativeInClear counts something in clear that was, or would be, refused.
func (r *Account) NativeInClear(refused bool) {
	outcome := outcomeWouldBlock
	if refused {
		outcome = outcomeBlocked
	}
	r.env.Counts.NativeMessages.WithLabelValues(outcome).Inc()
}

// Status is how strictly the policy is applied now, and what enforcing it would have
// done.
type Status struct {
	Send    string `json:"send"`
	Receive string `json:"receive"`
	Native  string `json:"native"`
	// Would is nil while nothing is on "warn".
	Would *WouldHave `json:"would_have,omitempty"`
}

// WouldHave is what enforcing the policy would have done to the account since a time.
type WouldHave struct {
	Since time.Time       `json:"since"`
	Rooms []RoomWouldHave `json:"rooms"`
	// More reports whether there are more rooms than are remembered.
	More bool `json:"more,omitempty"`
	// Hidden is how many devices the account's clients with keys of their own would not have
	// been shown, or could not have sent to, and NativeBlockedBy are the users whose identity
	// change would have refused what they sent.
	Hidden          int         `json:"devices_hidden,omitempty"`
	NativeBlockedBy []id.UserID `json:"native_blocked_by,omitempty"`
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

// Status returns the policy in force, and what enforcing it would have done.
func (r *Account) Status() *Status {
	policy := r.env.Policy()
	out := &Status{Send: modeName(policy.Send), Receive: modeName(policy.Receive), Native: modeName(policy.Native)}
	if policy.Send != trustcache.ModeWarn && policy.Receive != trustcache.ModeWarn && policy.Native != trustcache.ModeWarn {
		return out
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	would := &WouldHave{
		Since: r.since.UTC().Truncate(time.Second), Rooms: make([]RoomWouldHave, 0, len(r.rooms)), More: r.full,
		Hidden: len(r.hidden), NativeBlockedBy: slices.Sorted(maps.Keys(r.changed)),
	}
	for roomID, one := range r.rooms {
		would.Rooms = append(would.Rooms, RoomWouldHave{
			RoomID: roomID, BlockedBy: slices.AppendSeq([]id.UserID{}, maps.Keys(one.blocked)),
			WithoutKey: len(one.keys), Messages: one.events, Devices: len(one.senders),
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
