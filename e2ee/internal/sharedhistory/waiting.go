package sharedhistory

import (
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/trustcache"
)

const (
	// acceptedFor is how long after an invitation was accepted its sender's bundle is taken
	// (requirement 17.7).
	acceptedFor = 24 * time.Hour
	// keptFor is how long a bundle waits for its room's invitation to be accepted. The file
	// will hardly be there for longer.
	keptFor = 90 * 24 * time.Hour
	// maxTries is how many bundles of an inviter's that cannot be used are downloaded.
	maxTries = 3
	// maxBundles and maxInvites bound what waits. Anybody can send bundles: maxOfSender bounds
	// those of one user, and who has sent most loses the oldest.
	maxBundles  = 100
	maxOfSender = 8
	maxInvites  = 200
)

// waiting is what a device keeps between a bundle, an invitation and its acceptance, in
// whatever order they come.
type waiting struct {
	Bundles  []bundle `json:"bundles,omitempty"`  // oldest first
	Invites  []invite `json:"invites,omitempty"`  // not accepted yet, oldest first
	Accepted []invite `json:"accepted,omitempty"` // whose bundle was not taken yet
}

// bundle is an m.room_key_bundle that came.
type bundle struct {
	Room id.RoomID `json:"room_id"`
	// From is the device that sent it, as the Olm channel proves, with the keys in the message.
	From trustcache.Owner `json:"from"`
	File file             `json:"file"`
	At   time.Time        `json:"at"`
}

// invite is an invitation of the own user. At is when it came, or was accepted.
type invite struct {
	Room  id.RoomID `json:"room_id"`
	By    id.UserID `json:"by"`
	At    time.Time `json:"at"`
	Tries int       `json:"tries,omitempty"` // bundles that could not be used
}

func (w *waiting) clone() waiting {
	return waiting{slices.Clone(w.Bundles), slices.Clone(w.Invites), slices.Clone(w.Accepted)}
}

func (w *waiting) empty() bool { return len(w.Bundles)+len(w.Invites)+len(w.Accepted) == 0 }

// same reports whether two bundles are of one room and one device. The devices of a user are
// kept apart, because one of them may not be theirs.
func (b *bundle) same(o *bundle) bool {
	return b.Room == o.Room && b.From.UserID == o.From.UserID && b.From.Curve25519 == o.From.Curve25519
}

// addBundle adds a bundle in place of an earlier one of the same device.
func (w *waiting) addBundle(b bundle) {
	w.dropBundle(&b)
	w.Bundles = append(w.Bundles, b)
	of := make(map[id.UserID]int)
	for i := range w.Bundles {
		of[w.Bundles[i].From.UserID]++
	}
	if sender := b.From.UserID; of[sender] > maxOfSender {
		w.dropOldestOf(sender)
		return
	}
	if len(w.Bundles) > maxBundles {
		most := w.Bundles[0].From.UserID
		for i := range w.Bundles {
			if sender := w.Bundles[i].From.UserID; of[sender] > of[most] {
				most = sender
			}
		}
		w.dropOldestOf(most)
	}
}

func (w *waiting) dropOldestOf(sender id.UserID) {
	if i := slices.IndexFunc(w.Bundles, func(b bundle) bool { return b.From.UserID == sender }); i >= 0 {
		w.Bundles = slices.Delete(w.Bundles, i, i+1)
	}
}

func (w *waiting) dropBundle(b *bundle) {
	w.Bundles = slices.DeleteFunc(w.Bundles, func(o bundle) bool { return o.same(b) })
}

// invited records an invitation, and reports whether that is news.
func (w *waiting) invited(room id.RoomID, by id.UserID, now time.Time) bool {
	if slices.ContainsFunc(w.Invites, func(i invite) bool { return i.Room == room && i.By == by }) {
		return false
	}
	w.Invites = without(w.Invites, room)
	if len(w.Invites) >= maxInvites {
		w.Invites = slices.Delete(w.Invites, 0, 1)
	}
	w.Invites = append(w.Invites, invite{Room: room, By: by, At: now})
	return true
}

// joined records that the own user is in a room. It reports whether that accepts an invitation.
func (w *waiting) joined(room id.RoomID, now time.Time) bool {
	i := slices.IndexFunc(w.Invites, func(i invite) bool { return i.Room == room })
	if i < 0 {
		return false
	}
	by := w.Invites[i].By
	w.Invites = slices.Delete(w.Invites, i, i+1)
	w.Accepted = without(w.Accepted, room)
	if len(w.Accepted) >= maxInvites {
		w.Accepted = slices.Delete(w.Accepted, 0, 1)
	}
	w.Accepted = append(w.Accepted, invite{Room: room, By: by, At: now})
	return true
}

// left records that the own user is not in a room and not invited, and reports whether that
// changes anything.
func (w *waiting) left(room id.RoomID) bool {
	before := len(w.Invites) + len(w.Accepted)
	w.Invites, w.Accepted = without(w.Invites, room), without(w.Accepted, room)
	return len(w.Invites)+len(w.Accepted) < before
}

func without(all []invite, room id.RoomID) []invite {
	return slices.DeleteFunc(all, func(i invite) bool { return i.Room == room })
}

// expire drops what is too old.
func (w *waiting) expire(now time.Time) {
	w.Accepted = slices.DeleteFunc(w.Accepted, func(i invite) bool { return now.Sub(i.At) >= acceptedFor })
	w.Bundles = slices.DeleteFunc(w.Bundles, func(b bundle) bool { return now.Sub(b.At) >= keptFor })
}

// next returns a bundle that is to be taken now, the newest of an inviter's first, without
// those in tried.
func (w *waiting) next(now time.Time, tried []bundle) (invite, bundle, bool) {
	for _, a := range w.Accepted {
		if now.Sub(a.At) >= acceptedFor {
			continue
		}
		for i := len(w.Bundles) - 1; i >= 0; i-- {
			b := &w.Bundles[i]
			if b.Room == a.Room && b.From.UserID == a.By && !slices.ContainsFunc(tried, b.is) {
				return a, *b, true
			}
		}
	}
	return invite{}, bundle{}, false
}

// is reports whether two bundles are the same one.
func (b *bundle) is(o bundle) bool { return b.same(&o) && b.File.URL == o.File.URL && b.At.Equal(o.At) }

// done records what became of a bundle. Whose history was taken is not asked again, and whose
// bundles are of no use only a few times.
func (w *waiting) done(b *bundle, result result) {
	w.Bundles = slices.DeleteFunc(w.Bundles, b.is)
	switch result {
	case taken:
		w.Accepted = without(w.Accepted, b.Room)
		w.Bundles = slices.DeleteFunc(w.Bundles, func(o bundle) bool { return o.Room == b.Room && o.From.UserID == b.From.UserID })
	case unusable:
		for i := range w.Accepted {
			if a := &w.Accepted[i]; a.Room == b.Room {
				a.Tries++
			}
		}
		w.Accepted = slices.DeleteFunc(w.Accepted, func(a invite) bool { return a.Tries >= maxTries })
	case refused:
	}
}

// result is what became of a bundle that was looked at.
type result int

const (
	// refused means that its sender may not share history: nothing was downloaded.
	refused result = iota
	// unusable means that the file is gone, too large, or not what it should be.
	unusable
	// taken means that what is in it was taken.
	taken
)
