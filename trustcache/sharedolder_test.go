package trustcache

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"maunium.net/go/mautrix/id"
)

// Attack: a device is stolen, and its owner logs it out. Alice asked before that and believes
// in it still; bob was told and asks: what alice was answered is no answer for him.
func TestOlderAnswerAfterAChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		town := newTown(t, 1)
		a, b := town.move(0, town.answers), town.move(1, town.answers)
		p := town.people[0]
		town.srv.publish(p, p.signedDevice("PHONE"), p.signedDevice("STOLEN"))
		town.fresh(a, "STOLEN")
		town.srv.publish(p, p.signedDevice("PHONE"))
		b.changed(p.user)
		if u := b.looks(p.user)[p.user]; u.Device("STOLEN") != nil {
			t.Error("bob believes in a device that its owner has logged out")
		}
		town.wantAsked("after the change", 2)
	})
}

// Attack: as before, but the change comes while alice's query is under way, whose answer was
// made before it. Bob must not wait for that answer.
func TestAnswerUnderWayIsOlder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		town := newTown(t, 1)
		a, b := town.move(0, town.answers), town.move(1, town.answers)
		p := town.people[0]
		town.srv.publish(p, p.signedDevice("PHONE"), p.signedDevice("STOLEN"))
		answered, deliver := town.holdNext()
		var group sync.WaitGroup
		group.Go(func() { a.looks(p.user) })
		<-answered
		town.srv.publish(p, p.signedDevice("PHONE"))
		b.changed(p.user)
		if u := b.looks(p.user)[p.user]; u.Device("STOLEN") != nil {
			t.Error("bob believes in a device that its owner has logged out")
		}
		close(deliver)
		group.Wait()
	})
}

// Attack: a device is logged out before an account's first sync, which tells of no changes,
// or while nobody synced for it. Nobody will ever tell: answers from before are too old.
func TestGapBeforeAnAccountFollows(t *testing.T) {
	t.Parallel()
	for name, enter := range map[string]func(*town) *resident{
		"no sync yet":       func(town *town) *resident { return town.stranger(1, town.answers) },
		"first sync":        func(town *town) *resident { return town.move(1, town.answers) },
		"the process began": func(town *town) *resident { r := town.stranger(1, town.answers); r.Synced(false); return r },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				town := newTown(t, 1)
				p := town.people[0]
				town.srv.publish(p, p.signedDevice("PHONE"), p.signedDevice("STOLEN"))
				town.fresh(town.move(0, town.answers), "STOLEN")
				town.srv.publish(p, p.signedDevice("PHONE"))
				if u := enter(town).looks(p.user)[p.user]; u.Device("STOLEN") != nil {
					t.Error("a device that was logged out before")
				}
			})
		})
	}
	t.Run("a new device without a position", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			town := newTown(t, 1)
			p := town.people[0]
			a, b := town.move(0, town.answers), town.move(1, town.answers)
			town.srv.publish(p, p.signedDevice("PHONE"), p.signedDevice("STOLEN"))
			town.fresh(a, "STOLEN")
			town.srv.publish(p, p.signedDevice("PHONE"))
			b.Synced(true)
			if u := b.looks(p.user)[p.user]; u.Device("STOLEN") != nil {
				t.Error("a device that was logged out while nobody listened")
			}
		})
	})
}

// Attack: eve is in no room with bob's account, which therefore never hears that she logged a
// device out. What another account was answered before bob invites her is no answer for him.
func TestAnswerAboutAStranger(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		town := newTown(t, 2)
		a, b := town.move(0, town.answers), town.move(1, town.answers)
		p, other := town.people[0], town.people[1]
		town.srv.publish(p, p.signedDevice("PHONE"), p.signedDevice("STOLEN"))
		a.looks(town.users()...)
		town.srv.publish(p, p.signedDevice("PHONE"))
		got, err := b.LookupMembers(t.Context(), b.asks, town.users(), func(user id.UserID) bool { return user == other.user })
		if err != nil || got[p.user].Device("STOLEN") != nil {
			t.Errorf("%v, %v", err, ids(got[p.user]))
		}
		if n := town.srv.asked()[other.user]; n != 1 {
			t.Errorf("asked %d times about a member", n)
		}
	})
}

// Attack: the homeserver does not tell bob's account that a device was logged out. What it
// takes from another account is a minute old at most.
func TestSharedAnswersEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		town := newTown(t, 1)
		a, b := town.move(0, town.answers), town.move(1, town.answers)
		p := town.people[0]
		town.srv.publish(p, p.signedDevice("PHONE"), p.signedDevice("STOLEN"))
		town.fresh(a, "STOLEN")
		town.srv.publish(p, p.signedDevice("PHONE"))
		time.Sleep(time.Minute + time.Millisecond)
		if u := b.looks(p.user)[p.user]; u.Device("STOLEN") != nil {
			t.Error("an answer that is more than a minute old")
		}
	})
}

// Attack: a client's own query is answered while an older answer is about to be stored, with a
// device that has been logged out in between. The older one must not replace it.
func TestOlderAnswerDoesNotReplaceANewer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		town := newTown(t, 1)
		a := town.move(0, town.answers)
		p := town.people[0]
		town.srv.publish(p, p.signedDevice("PHONE"), p.signedDevice("STOLEN"))
		town.fresh(a, "STOLEN")
		a.changed(p.user)
		answered, deliver := town.holdNext()
		var group sync.WaitGroup
		group.Go(func() { a.looks(p.user) })
		<-answered
		time.Sleep(time.Millisecond)
		town.srv.publish(p, p.signedDevice("PHONE"))
		q := a.BeginClientQuery(false)
		newer, err := town.srv.reply([]id.UserID{p.user})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := q.Answered(t.Context(), newer, func(id.UserID) bool { return true }, ModeEnforce); err != nil {
			t.Fatal(err)
		}
		q.End()
		close(deliver)
		group.Wait()
		if u := a.looks(p.user)[p.user]; u.Device("STOLEN") != nil || u.Knowledge != KnowledgeFresh {
			t.Errorf("%v, %v", u.Knowledge, ids(u))
		}
	})
}
