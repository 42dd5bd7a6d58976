package trustcache

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
)

// Cache keeps the users that were used last in memory, for any number of trackers, so that
// a process needs no more than its size. It is safe for concurrent use.
type Cache struct {
	users    *lru.Cache[cacheKey, *entry]
	trackers atomic.Uint64
}

// cacheKey names the account by its tracker: a user ID can come to belong to somebody else
// (attack 51), and between two trackers of an account another process may have written.
type cacheKey struct {
	tracker uint64
	user    id.UserID
}

// entry is a user in memory: the stored row and the snapshot made from it. Neither is
// changed once made.
type entry struct {
	row  store.User
	user *User
	// asked is when the homeserver was asked for this; zero if a change was reported since, or
	// it is not known. See [Tracker.Within].
	asked time.Time
	// refused and refusedIdentity are what was refused of the last answer.
	refused         []id.DeviceID
	refusedIdentity bool
}

// askedAt returns the entry with another time.
func (e *entry) askedAt(at time.Time) *entry {
	out := *e
	out.asked = at
	return &out
}

// NewCache makes a cache for the given number of users, at least one.
func NewCache(users int) (*Cache, error) {
	c, err := lru.New[cacheKey, *entry](users)
	if err != nil {
		return nil, fmt.Errorf("make user cache: %w", err)
	}
	return &Cache{users: c}, nil
}

// newEntry makes the snapshot of a row and its devices. Knowledge follows from the row.
func newEntry(own id.UserID, row store.User, identity Identity, devices []Device, gone ...Device) *entry {
	slices.SortFunc(devices, func(a, b Device) int { return strings.Compare(string(a.DeviceID), string(b.DeviceID)) })
	markFaults(devices, identity.Keys())
	return &entry{row: row, user: &User{
		UserID: row.UserID, Own: row.UserID == own, Knowledge: knowledge(row, len(devices)),
		Identity: identity, Pin: pinOf(row, identity.Master), Devices: devices, Gone: gone,
	}}
}

func knowledge(row store.User, devices int) Knowledge {
	switch {
	case row.Tracked && !row.Outdated:
		return KnowledgeFresh
	case devices > 0 || len(row.Master) > 0:
		return KnowledgeStale
	case row.Failures > 0:
		return KnowledgeUnreachable
	default:
		return KnowledgeUnknown
	}
}

func pinOf(row store.User, current id.Ed25519) Pin {
	return Pin{
		Current: current, PinnedMaster: id.Ed25519(row.PinnedMaster),
		Verified: row.Verified, WasVerified: row.WasVerified,
	}
}

// with returns an entry of the same user, identity and devices with another row.
func (e *entry) with(own id.UserID, row store.User) *entry {
	identity := e.user.Identity
	identity.MasterRaw = row.Master
	u := *e.user
	u.Identity, u.Pin, u.Own = identity, pinOf(row, identity.Master), row.UserID == own
	u.Knowledge = knowledge(row, len(u.Devices))
	out := *e
	out.row, out.user = row, &u
	return &out
}

// restore makes an entry from stored rows. Its signatures were checked before they were
// stored.
func restore(own id.UserID, row store.User, stored, distrusts []store.UserDevice) (*entry, error) {
	identity, err := restoreIdentity(row)
	if err != nil {
		return nil, fmt.Errorf("restore identity of a user: %w", err)
	}
	devices := make([]Device, 0, len(stored))
	for _, s := range stored {
		d, _, err := readDevice(s.Keys, s.UserID, s.DeviceID)
		if err != nil {
			return nil, fmt.Errorf("restore device of a user: %w", err)
		}
		d.Signed, d.Override, d.Made = s.Signed, overrideOf(s.Override), Made{s.OverrideAt, s.OverrideBy}
		devices = append(devices, d)
	}
	var gone []Device
	for _, s := range distrusts {
		gone = append(gone, listed(s))
	}
	return newEntry(own, row, identity, devices, gone...), nil
}

// StateOf returns the state of a user's identity by what is stored of them.
func StateOf(row store.User) PinState {
	identity, err := restoreIdentity(row)
	if err != nil {
		return PinNone
	}
	return Pin{Current: identity.Master, PinnedMaster: id.Ed25519(row.PinnedMaster), Verified: row.Verified, WasVerified: row.WasVerified}.State()
}

func restoreIdentity(row store.User) (Identity, error) {
	out := Identity{MasterRaw: row.Master, SelfSigningRaw: row.SelfSigning, UserSigningRaw: row.UserSigning}
	var err error
	if len(row.Master) > 0 {
		if out.Master, _, err = readCrossSigningKey(row.Master, row.UserID, id.XSUsageMaster); err != nil {
			return Identity{}, err
		}
	}
	if len(row.SelfSigning) > 0 {
		if out.SelfSigning, _, err = readCrossSigningKey(row.SelfSigning, row.UserID, id.XSUsageSelfSigning); err != nil {
			return Identity{}, err
		}
	}
	if len(row.UserSigning) > 0 {
		if out.UserSigning, _, err = readCrossSigningKey(row.UserSigning, row.UserID, id.XSUsageUserSigning); err != nil {
			return Identity{}, err
		}
	}
	return out, nil
}

func overrideOf(stored *bool) Override {
	switch {
	case stored == nil:
		return OverrideNone
	case *stored:
		return OverrideTrusted
	default:
		return OverrideDistrusted
	}
}

func (o Override) stored() *bool {
	switch o {
	case OverrideTrusted:
		return new(true)
	case OverrideDistrusted:
		return new(false)
	case OverrideNone:
		return nil
	default:
		return new(false)
	}
}

func (d *Device) stored() store.UserDevice {
	return store.UserDevice{
		UserID: d.UserID, DeviceID: d.DeviceID, Ed25519: d.Ed25519.String(), Curve25519: d.Curve25519.String(),
		Keys: d.Raw, Signed: d.Signed, Override: d.Override.stored(),
		OverrideAt: d.Made.At, OverrideBy: d.Made.By,
	}
}
