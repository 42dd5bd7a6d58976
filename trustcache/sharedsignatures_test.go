package trustcache

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"testing/synctest"

	"maunium.net/go/mautrix/id"
)

// view is the homeserver as one account sees it: with its own signatures on others' master
// keys.
type view struct {
	*server
	own  person
	mu   sync.Mutex
	sees map[id.UserID]person
}

func (v *view) QueryKeys(ctx context.Context, users []id.UserID) (*QueryResult, error) {
	res, err := v.server.QueryKeys(ctx, users)
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, u := range users {
		if p, ok := v.sees[u]; ok && err == nil {
			res.MasterKeys[u] = p.masterSignedBy(v.own)
		}
	}
	return res, err
}

// confirms has the account sign somebody with another client of its user.
func (v *view) confirms(p person) {
	v.mu.Lock()
	defer v.mu.Unlock()
	put(&v.sees, p.user, p)
}

// verifying makes an account that has an identity of its own that is verified.
func verifying(r *resident) *view {
	own := newPerson(r.user, "1")
	if _, err := r.SetOwnIdentity(context.Background(), own.master.public); err != nil {
		r.t.Fatal(err)
	}
	v := &view{server: r.srv, own: own}
	r.asks = v
	return v
}

// Attack: alice has verified carol. An account that takes what she was answered would learn
// whom she trusts.
func TestSharedAnswerDoesNotSayWhomTheAskerVerified(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		town := newTown(t, 1)
		a, b := town.move(0, town.answers), town.move(1, town.answers)
		p := town.people[0]
		verifying(a).confirms(p)
		if u := a.looks(p.user)[p.user]; u.State() != PinVerified {
			t.Fatalf("alice: %v", u.State())
		}
		u := b.looks(p.user)[p.user]
		if u.State() != PinPinned || u.Knowledge != KnowledgeFresh || bytes.Contains(b.mem.row(p.user).Master, []byte(a.user)) {
			t.Errorf("bob: %v, %s", u.State(), b.mem.row(p.user).Master)
		}
		town.wantAsked("both", 1)
	})
}

// A signature that the account's user makes with another client shows to that account only. An
// account that may have such a client asks for itself, and so does everybody about those whom
// they verified.
func TestOwnSignaturesAreSeen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		town := newTown(t, 1)
		a, b := town.move(0, town.answers), town.move(1, town.answers)
		p := town.people[0]
		seen := verifying(b)
		b.alone = false
		town.fresh(a, "PHONE")
		seen.confirms(p)
		if u := b.looks(p.user)[p.user]; u.State() != PinVerified {
			t.Errorf("not alone: %v", u.State())
		}
		// The other client is gone, and carol changes her identity and changes it back.
		b.alone = true
		next := newPerson(p.user, "2")
		town.srv.publish(next, next.signedDevice("PHONE"))
		seen.mu.Lock()
		seen.sees = nil
		seen.mu.Unlock()
		a.changed(p.user)
		a.looks(p.user)
		b.changed(p.user)
		if u := b.looks(p.user)[p.user]; u.State() != PinVerificationLost {
			t.Errorf("replaced: %v", u.State())
		}
		town.srv.publish(p, p.signedDevice("PHONE"))
		seen.confirms(p)
		a.changed(p.user)
		b.changed(p.user)
		a.looks(p.user)
		if u := b.looks(p.user)[p.user]; u.State() != PinVerified {
			t.Errorf("restored: %v", u.State())
		}
	})
}
