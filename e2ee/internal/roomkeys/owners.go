package roomkeys

import (
	"context"
	"iter"
	"slices"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Claim is a device that may own a session, and the source of that claim.
type Claim struct {
	trustcache.Owner
	Source store.Source
	// SharedBy is who gave the key, if it came in a bundle of the room's history.
	SharedBy id.UserID
}

// Claims returns those who may have encrypted the event: the sender's devices, those of
// bridges that may speak for others, and the first owner of its key, in this order. Of a key
// that one device claims it returns that one.
func (ev *Event) Claims(bridges map[id.UserID]bool) []Claim {
	if !ev.session.contested {
		return []Claim{ev.session.firstOwner()}
	}
	return ev.session.claims(ev.Sender, bridges)
}

// OwnerUsers returns the users whose devices own the event's key, as far as they were looked
// up. An owner without a user may be the sender's device, see trustcache.Owner.Named.
func (ev *Event) OwnerUsers() iter.Seq[id.UserID] {
	s := ev.session
	return func(yield func(id.UserID) bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		user := s.owner.UserID
		if user == "" && s.owner.Attested {
			user = ev.Sender
		}
		if user != "" && !yield(user) {
			return
		}
		for user := range s.more {
			if !yield(user) {
				return
			}
		}
	}
}

func (s *inboundSession) claims(sender id.UserID, bridges map[id.UserID]bool) []Claim {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := Claim{s.owner, s.row.Source, s.sharedBy}
	out := make([]Claim, 0, 4)
	add := func(user id.UserID) {
		if s.owner.UserID == user {
			out = append(out, first)
		}
		for _, o := range s.more[user] {
			source := store.SourceDirect
			if o.Attested {
				source = store.SourceBackup
			}
			out = append(out, Claim{Owner: o, Source: source})
		}
	}
	add(sender)
	for _, user := range bridgesOf(bridges) {
		if user != sender {
			add(user)
		}
	}
	if s.owner.UserID != sender && !bridges[s.owner.UserID] {
		out = append(out, first)
	}
	return out
}

// bridgesOf returns the users that may speak for others, in order.
func bridgesOf(bridges map[id.UserID]bool) []id.UserID {
	out := make([]id.UserID, 0, len(bridges))
	for user, is := range bridges {
		if is {
			out = append(out, user)
		}
	}
	slices.Sort(out)
	return out
}

// findOwners loads the further owners that may have sent the events of contested
// sessions.
func (in *Inbound) findOwners(ctx context.Context, events []*Event) error {
	var want []store.OwnersRef
	var whose []*inboundSession
	var bridges []id.UserID
	for _, ev := range events {
		s := ev.session
		if s == nil || !s.contested {
			continue
		}
		if bridges == nil {
			bridges = bridgesOf(in.Env.Policy().Bridges)
		}
		s.mu.Lock()
		for _, user := range append([]id.UserID{ev.Sender}, bridges...) {
			if _, known := s.more[user]; !known && len(user) <= wire.MaxIDLength {
				want, whose = append(want, store.OwnersRef{SessionRef: ev.Ref, UserID: user}), append(whose, s)
			}
		}
		s.mu.Unlock()
	}
	if len(want) == 0 {
		return nil
	}
	found, err := in.MoreOwners(ctx, want)
	if err != nil {
		return err
	}
	for i, ref := range want {
		s := whose[i]
		s.mu.Lock()
		if list := found.Of(ref); len(list) > 0 {
			if s.more == nil {
				s.more = make(map[id.UserID][]trustcache.Owner)
			}
			s.more[ref.UserID] = list
		}
		s.mu.Unlock()
	}
	return nil
}

// MoreOwners loads owners with one query. Damaged rows have none.
func (in *Inbound) MoreOwners(ctx context.Context, want []store.OwnersRef) (*megolm.MoreOwners, error) {
	if len(want) == 0 {
		return megolm.NewMoreOwners(nil), nil
	}
	rows, err := in.Env.Store.MoreOwners(ctx, in.Account.Row, in.RowID, want)
	if err != nil {
		return nil, err
	}
	return megolm.NewMoreOwners(rows), nil
}

// UpgradeOwners adds what has become known of the owners of a batch's keys since they
// arrived, and stores it. An owner is never downgraded (requirement 8.3). If the stored key
// changed since it was read, only this batch sees the upgrade: storing it would overwrite
// that change.
func (in *Inbound) UpgradeOwners(ctx context.Context, events []*Event, users map[id.UserID]*trustcache.User) error {
	in.Mu.Lock()
	defer in.Mu.Unlock()
	s := in.Begin()
	done := make(map[*inboundSession]bool)
	for _, ev := range events {
		if ev.Payload == nil || done[ev.session] {
			continue
		}
		if !in.inCache(ev.session) {
			apply, err := ev.session.upgraded(users, ev.Sender, &store.Changes{})
			if err != nil {
				return err
			}
			if apply != nil {
				apply() // for this batch only
			}
			continue
		}
		apply, err := ev.session.upgraded(users, ev.Sender, s.Changes)
		if err != nil {
			return err
		}
		done[ev.session] = apply != nil || ev.session.firstOwner().UserID != ""
		if apply != nil {
			s.After(apply)
		}
	}
	if len(s.Then) == 0 {
		return nil
	}
	return s.Commit(ctx, "what is known of key owners")
}
