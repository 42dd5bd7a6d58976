package trustcache

import (
	"encoding/json"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// stolen sets the attacks up: a replica has asked while a device was there that its owner has
// logged out since, and left its answer on the board. It returns an account of the other
// replica, and whether it believes in the device.
func stolen(t *testing.T) (c *cluster, b *resident, believes func() bool) {
	t.Helper()
	c = newCluster(t, 1, 2)
	a := c.move(0, c.replicas[0])
	b = c.move(1, c.replicas[1])
	c.settle()
	p := c.people[0]
	c.srv.publish(p, p.signedDevice("PHONE"), p.signedDevice("STOLEN"))
	c.fresh(a, "STOLEN")
	c.srv.publish(p, p.signedDevice("PHONE"))
	return c, b, func() bool { return b.looks(p.user)[p.user].Device("STOLEN") != nil }
}

// The setting of the attacks is right: an account that was told nothing yet takes the answer.
func TestReplayWithoutAnAttack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, _, believes := stolen(t)
		if !believes() {
			t.Error("the answer on the board was not taken")
		}
		c.wantAsked("both", 1)
	})
}

// Attack: Redis keeps an answer, which was sealed by a replica and has all its signatures, and
// gives it back after the device in it was logged out.
func TestReplayOfAnOlderAnswer(t *testing.T) {
	t.Parallel()
	for name, attack := range map[string]func(c *cluster, b *resident){
		"at once": func(c *cluster, b *resident) { b.changed(c.users()...) },
		"as the newest round": func(c *cluster, b *resident) {
			older := maps.Clone(c.board.values)
			b.changed(c.users()...)
			c.settle()
			d := c.move(3, c.replicas[0])
			d.changed(c.users()...)
			d.looks(c.users()...) // leaves a newer one
			c.board.edit(func(b *board) { b.replays = func(name string) []byte { return older[name] } })
		},
		"to an account that has just begun to sync": func(_ *cluster, b *resident) { b.Synced(true) },
		"together with every message that was said": func(c *cluster, b *resident) {
			b.changed(c.users()...)
			c.settle()
			c.board.edit(func(b *board) { b.replays = func(name string) []byte { return b.left[0][name] } })
			for _, message := range c.board.said {
				for _, a := range c.replicas {
					a.Heard(message)
				}
			}
		},
		"when its time is over": func(c *cluster, _ *resident) { c.passes(time.Minute + time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c, b, believes := stolen(t)
				attack(c, b)
				if believes() {
					t.Error("a device that its owner has logged out is believed in")
				}
			})
		})
	}
}

// Attack: Redis gives back what replicas said when they were further, and holds back what they
// say now: a message from before a replica began again must not make it believe that others
// know of what it was told since.
func TestReplayAfterARestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, _, _ := stolen(t)
		time.Sleep(30 * time.Second) // the old process has come far
		c.settle()
		again := NewAnswers(AnswersOptions{Board: c.board})
		b := c.move(5, again)
		c.board.edit(func(b *board) { b.deaf = true })
		for _, message := range c.board.said {
			c.replicas[0].Heard(message)
			again.Heard(message)
		}
		p := c.people[0]
		if u := b.looks(p.user)[p.user]; u.Device("STOLEN") != nil {
			t.Error("a device that was logged out before the account was here")
		}
	})
}

// Attack: Redis holds a replica's messages back, so that the others do not know how far it is.
// Then their answers are of no use to it, and it asks.
func TestReplicaThatIsNotHeard(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, 2)
		a, b := c.move(0, c.replicas[0]), c.move(1, c.replicas[1])
		c.settle()
		c.board.edit(func(b *board) { b.deaf = true })
		b.changed(c.users()...)
		a.changed(c.users()...)
		c.fresh(a, "PHONE")
		c.fresh(b, "PHONE")
		c.wantAsked("both", 2)
	})
}

// Attack: what is on the board is not what it should be: cut, of another user, of nobody, with
// forged devices, or said to be from the future. None of it is taken for more than what the
// homeserver itself could answer, and what is no answer is a miss.
func TestPoisonedBoard(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2, 2)
		a, b := c.move(0, c.replicas[0]), c.move(1, c.replicas[1])
		c.settle()
		p, q, eve := c.people[0], c.people[1], newPerson("@eve:example.org", "1")
		c.fresh(a, "PHONE")
		good := maps.Clone(c.board.values)
		change := func(edit func(*leftAnswer)) []byte {
			var left leftAnswer
			if err := json.Unmarshal(good[p.user.String()], &left); err != nil {
				t.Fatal(err)
			}
			edit(&left)
			value, err := json.Marshal(left)
			if err != nil {
				t.Fatal(err)
			}
			return value
		}
		self := c.replicas[1].replicas.self
		for name, tt := range map[string]struct {
			value []byte
			asks  int // about p
		}{
			"cut":             {good[p.user.String()][:100], 1},
			"empty":           {[]byte{}, 1},
			"of another user": {good[q.user.String()], 1},
			"without devices": {change(func(l *leftAnswer) { l.Devices = nil }), 1},
			"from the future": {change(func(l *leftAnswer) { l.Seen[self] = 1 << 62 }), 1},
			"for others only": {change(func(l *leftAnswer) { delete(l.Seen, self) }), 1},
			"before time":     {change(func(l *leftAnswer) { l.Seen[self] = -5 }), 1},
			"with a forged device": {change(func(l *leftAnswer) {
				l.Devices["EVE"] = p.device("EVE").sign(p.user, p.selfSign.public.String(), eve.selfSign).raw()
				l.Devices["PHONE"] = eve.signedDevice("PHONE").raw()
			}), 0},
			"with a forged identity": {change(func(l *leftAnswer) {
				l.Master, l.SelfSigning = eve.masterFields().raw(), eve.bySelf(eve.selfSigningFields(), eve.master)
			}), 0},
		} {
			fresh := c.move(10+len(name), NewAnswers(AnswersOptions{Board: c.board}))
			fresh.opts.Answers.replicas = replicas{self: self, heard: map[string]heardOf{"other": {1, 1 << 40}}, news: make(chan struct{}, 1)}
			fresh.heard = heard{since: 1}
			time.Sleep(time.Second) // its own moments have come as far as the answer's
			c.board.edit(func(b *board) {
				b.replays = func(string) []byte { return tt.value }
				b.claims = map[string]uint64{}
			})
			before := c.srv.asked()[p.user]
			u := fresh.looks(p.user)[p.user]
			if n := c.srv.asked()[p.user] - before; n != tt.asks {
				t.Errorf("%s: asked %d times", name, n)
			}
			if d := u.Device("EVE"); d != nil && d.Signed {
				t.Errorf("%s: a forged signature was believed", name)
			}
			if d := u.Device("PHONE"); d != nil && d.Signed && d.Ed25519 != newSigner(string(p.user)+" PHONE").public {
				t.Errorf("%s: another device was believed", name)
			}
			if u.Current != "" && u.Current != p.master.public {
				t.Errorf("%s: another identity was believed", name)
			}
		}
		_ = b
	})
}

// An account that may take no answer to another takes none from another replica, also while
// accounts beside it wait for its query.
func TestAccountWithAnotherClientTakesNothingFromTheBoard(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, 2)
		a, b, d := c.move(0, c.replicas[0]), c.move(1, c.replicas[1]), c.move(2, c.replicas[1])
		c.settle()
		p := c.people[0]
		b.alone = false
		verifying(b).confirms(p)
		c.fresh(a, "PHONE")
		var group sync.WaitGroup
		group.Go(func() {
			if u := b.looks(p.user)[p.user]; u.State() != PinVerified {
				t.Errorf("got %v", u.State())
			}
		})
		group.Go(func() { c.fresh(d, "PHONE") })
		group.Wait()
		c.wantAsked("all", 2)
	})
}

// Attack: a replica is stopped after it has asked, and goes on much later. What it leaves then
// says how old it is.
func TestForeignReplicaGoesOnLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, 2)
		a, b := c.move(0, c.replicas[0]), c.move(1, c.replicas[1])
		c.settle()
		p := c.people[0]
		c.srv.publish(p, p.signedDevice("PHONE"), p.signedDevice("STOLEN"))
		answered, deliver := c.holdNext()
		var group sync.WaitGroup
		group.Go(func() { a.looks(p.user) })
		<-answered
		c.srv.publish(p, p.signedDevice("PHONE"))
		b.changed(p.user)
		time.Sleep(5 * time.Second)
		close(deliver)
		group.Wait()
		if u := b.looks(p.user)[p.user]; u.Device("STOLEN") != nil {
			t.Error("a device that was logged out before the answer came")
		}
	})
}
