package trustcache

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"
)

// QueryResult is the answer to /keys/query, nothing of which was checked.
type QueryResult struct {
	DeviceKeys      map[id.UserID]map[id.DeviceID]json.RawMessage
	MasterKeys      map[id.UserID]json.RawMessage
	SelfSigningKeys map[id.UserID]json.RawMessage
	UserSigningKeys map[id.UserID]json.RawMessage
	// Failures are the servers that could not be asked, by name.
	Failures map[string]json.RawMessage
	// unasked are users of whom there is no answer at all.
	unasked map[id.UserID]bool
}

// failed reports whether the answer does not cover a user, mostly because their server could
// not be reached (requirement 3.11). Devices that the answer lists all the same come from the
// homeserver's own cache, and count. A user whom the answer does not list at all is not one
// without devices: Dendrite (0.15.2) leaves out those whose server it cannot reach, and names the
// server only if it has nothing of anybody else.
func (r *QueryResult) failed(user id.UserID) bool {
	if r.unasked[user] {
		return true
	}
	_, server, ok := strings.Cut(user.String(), ":")
	devices, listed := r.DeviceKeys[user]
	if !ok || len(devices) > 0 {
		return false
	}
	_, failed := r.Failures[server]
	return failed || !listed
}

// update is what changes of a user with an answer.
type update struct {
	identity Identity
	devices  []Device // without overrides; sorted by newEntry
	// refusedIdentity reports whether the answer's identity was wrong; refused are the devices
	// that were.
	refusedIdentity bool
	refused         []id.DeviceID
	asked           time.Time // see entry
	// passive is an answer to somebody who asks again and again: what it refuses is told once.
	passive bool
}

// digestAnswer computes what an answer changes of a user. It verifies signatures, of changed
// objects only, and takes no lock. retired are self-signing keys that the current master
// key has replaced.
func digestAnswer(before *User, r *QueryResult, retired map[id.Ed25519]bool, maxDevices int) update {
	var out update
	out.identity, out.refusedIdentity = nextIdentity(before, r)
	if retired[out.identity.SelfSigning] {
		out.identity, out.refusedIdentity = before.Identity, true
	}
	self := out.identity.SelfSigning
	answers := r.DeviceKeys[before.UserID]
	for _, device := range chooseDevices(before, answers, self, maxDevices) {
		d, ok := nextDevice(before, device, answers[device], self)
		if !ok {
			out.refused = append(out.refused, device)
		}
		if d.Ed25519 == "" || d.Curve25519 == "" {
			continue // a device without keys does not exist (requirement 1.19)
		}
		out.devices = append(out.devices, d)
	}
	return out
}

// historyKind returns the kind of line that the history gets about a user's self-signing key
// when the next identity has another one; empty when it has the same.
func historyKind(before *User, next Identity) (kind string) {
	switch {
	case before.SelfSigning == "":
		return ""
	case next.Master != before.Master:
		return kindLeft
	case next.SelfSigning != before.SelfSigning:
		return kindRetired
	default:
		return ""
	}
}

// nextIdentity returns the identity to keep. A homeserver that shows none, or that leaves
// keys out, erases nothing (requirement 4.8), and one that shows a wrong one changes
// nothing.
func nextIdentity(before *User, r *QueryResult) (out Identity, refused bool) {
	old := before.Identity
	master, self := r.MasterKeys[before.UserID], r.SelfSigningKeys[before.UserID]
	var signing json.RawMessage
	if before.Own {
		signing = r.UserSigningKeys[before.UserID]
	}
	if len(old.MasterRaw) > 0 && bytes.Equal(master, old.MasterRaw) &&
		bytes.Equal(self, old.SelfSigningRaw) && bytes.Equal(signing, old.UserSigningRaw) {
		return old, false
	}
	shown, err := ParseIdentity(before.UserID, master, self, signing)
	if err != nil {
		return old, !errors.Is(err, ErrNoIdentity)
	}
	if shown.Master == old.Master {
		if shown.SelfSigning == "" {
			shown.SelfSigning, shown.SelfSigningRaw = old.SelfSigning, old.SelfSigningRaw
		}
		if shown.UserSigning == "" {
			shown.UserSigning, shown.UserSigningRaw = old.UserSigning, old.UserSigningRaw
		}
	}
	return shown, false
}

// nextDevice returns the device to keep, with its owner's signature checked; ok is false
// if the answer's was refused. A living device never changes its keys (requirement 2.8).
func nextDevice(before *User, device id.DeviceID, raw json.RawMessage, self id.Ed25519) (Device, bool) {
	old := before.Device(device)
	if old == nil || !bytes.Equal(old.Raw, raw) {
		d, s, err := parseDevice(raw, before.UserID, device)
		if err == nil && (old == nil || (d.Ed25519 == old.Ed25519 && d.Curve25519 == old.Curve25519)) {
			d.Signed = d.signedBy(s, self)
			return d, true
		}
		if old == nil {
			return Device{}, false
		}
		return old.resignedBy(before.SelfSigning, self), false
	}
	return old.resignedBy(before.SelfSigning, self), true
}

// resignedBy returns the device after its owner's self-signing key has changed (requirement
// 12.14).
func (d *Device) resignedBy(from, to id.Ed25519) Device {
	out := *d
	if from != to {
		out.Signed = out.SignedBy(to)
	}
	return out
}

// chooseDevices limits how many devices of a user are looked at: first the known ones, then
// those that carry a signature under their owner's self-signing key, then the others
// (attack 62).
func chooseDevices(before *User, answers map[id.DeviceID]json.RawMessage, self id.Ed25519, limit int) []id.DeviceID {
	out := make([]id.DeviceID, 0, len(answers))
	for device := range answers {
		out = append(out, device)
	}
	slices.Sort(out)
	if len(out) <= limit {
		return out
	}
	rank := make(map[id.DeviceID]int, len(out))
	mark := []byte("ed25519:" + self.String())
	for _, device := range out {
		switch {
		case before.Device(device) != nil:
		case self != "" && bytes.Contains(answers[device], mark):
			rank[device] = 1
		default:
			rank[device] = 2
		}
	}
	slices.SortStableFunc(out, func(a, b id.DeviceID) int { return rank[a] - rank[b] })
	return out[:limit]
}

// compare returns the event of a user's devices that differ from before.
func compare(before *User, after []Device) Event {
	ev := Event{Kind: EventDevices}
	listed := make(map[id.DeviceID]bool, len(after))
	for i := range after {
		d := &after[i]
		listed[d.DeviceID] = true
		old := before.Device(d.DeviceID)
		if old == nil {
			ev.Added = append(ev.Added, d.DeviceID)
		}
		was := old != nil && old.Signed
		switch {
		case d.Signed && !was:
			ev.Signed = append(ev.Signed, d.DeviceID)
		case !d.Signed && was:
			ev.Unsigned = append(ev.Unsigned, d.DeviceID)
		}
	}
	for i := range before.Devices {
		if device := before.Devices[i].DeviceID; !listed[device] {
			ev.Removed = append(ev.Removed, device)
		}
	}
	return ev
}
