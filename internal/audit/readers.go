package audit

import (
	"cmp"
	"slices"
	"time"
)

// Reader is a device that could read events of a room.
type Reader struct {
	User    string `json:"user"`
	Device  string `json:"device"`
	Ed25519 string `json:"ed25519"`
	// Since is when it was first given a key, Last when for the last time.
	Since time.Time `json:"since"`
	Last  time.Time `json:"last"`
	// Keys is how many times it was given one, by itself or with the history.
	Keys int `json:"keys"`
	// How are the kinds of records that gave it one; sending_device is a device that made a
	// key itself.
	How []Kind `json:"how"`
	// RefusedSince is when it was refused a key after the last one that it got.
	RefusedSince time.Time `json:"refused_since,omitzero"`
}

// KindSender is how a device has the keys that it made itself.
const KindSender Kind = "sending_device"

// Readers collects from a log who could read a room.
type Readers struct {
	room string
	all  map[reader]*Reader
}

type reader struct{ user, device, ed25519 string }

// ReadersOf returns the readers of a room, of whom nothing is known yet.
func ReadersOf(room string) *Readers { return &Readers{room, make(map[reader]*Reader)} }

// Add takes the next record.
func (x *Readers) Add(r *Record) {
	if r.Room != x.room || !slices.Contains([]Kind{KindRoomKey, KindForwardedKey, KindHistory}, r.Kind) {
		return
	}
	if r.Kind == KindRoomKey {
		x.give(reader{r.Account, r.Device, r.Ed25519}, KindSender, r.At)
	}
	for i := range r.Users {
		u := &r.Users[i]
		for _, d := range u.Devices {
			who := reader{u.ID, d.Device, d.Ed25519}
			if d.Outcome == Given {
				x.give(who, r.Kind, r.At)
			} else if has := x.all[who]; has != nil && has.RefusedSince.IsZero() {
				has.RefusedSince = r.At
			}
		}
	}
}

func (x *Readers) give(who reader, how Kind, at time.Time) {
	one := x.all[who]
	if one == nil {
		one = &Reader{User: who.user, Device: who.device, Ed25519: who.ed25519, Since: at}
		x.all[who] = one
	}
	one.Last, one.RefusedSince = at, time.Time{}
	one.Keys++
	if !slices.Contains(one.How, how) {
		one.How = append(one.How, how)
	}
}

// List returns the readers, by user and time.
func (x *Readers) List() []Reader {
	all := make([]Reader, 0, len(x.all))
	for _, one := range x.all {
		all = append(all, *one)
	}
	slices.SortFunc(all, func(a, b Reader) int {
		return cmp.Or(cmp.Compare(a.User, b.User), a.Since.Compare(b.Since), cmp.Compare(a.Device, b.Device), cmp.Compare(a.Ed25519, b.Ed25519))
	})
	return all
}
