package store

import (
	"fmt"
	"strconv"
	"sync"
	"testing"

	"maunium.net/go/mautrix/id"
)

// TestManyAtOnce reads and writes from many goroutines, with a rotation of the master key
// and a restart of statements in between, and counts that nothing got lost.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		o := options(t, url)
		closeDB(t, open(t, o))
		o.MasterKeys = MasterKeys{Current: testKey(t, 2), Old: []MasterKey{testKey(t, 1)}}
		db := open(t, o)
		const workers, rounds = 12, 15
		var all sync.WaitGroup
		for w := range workers {
			all.Go(func() {
				user := id.UserID(fmt.Sprintf("@u%d:hs", w%4))
				acct, err := db.Account(t.Context(), user)
				if err != nil {
					t.Error(err)
					return
				}
				dev, err := db.CreateDevice(t.Context(), acct, Device{DeviceID: id.DeviceID(strconv.Itoa(w)), State: DeviceOurs, Token: secretString("t")})
				if err != nil {
					t.Error(err)
					return
				}
				for n := range rounds {
					if err := work(t, db, acct, dev.ID, w, n); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Go(func() {
			if _, err := db.RotateMasterKey(t.Context()); err != nil {
				t.Error(err)
			}
		})
		all.Wait()
		found := 0
		for ref, err := range db.OwnDevices(t.Context()) {
			found++
			if err != nil {
				t.Fatal(err)
			}
			acct := must[*Account](t)(db.LookupAccount(t.Context(), ref.UserID))
			dev := must[Device](t)(db.Device(t.Context(), acct, ref.DeviceID))
			n := len(must[map[SessionRef]InboundSession](t)(db.InboundSessions(t.Context(), acct, dev.ID, refsUpTo(rounds))))
			s := must[OutboundSession](t)(db.OutboundSession(t.Context(), acct, dev.ID, "!r"))
			same(t, "sessions and messages", []int{n, int(s.Messages)}, []int{rounds, rounds})
		}
		same(t, "devices", found, workers)
	})
}

func refsUpTo(n int) []SessionRef {
	all := make([]SessionRef, n)
	for i := range all {
		all[i] = ref("!r", strconv.Itoa(i))
	}
	return all
}

// work writes to the device and, in opposite orders, to rows that all devices of the account share.
func work(t *testing.T, db *DB, acct *Account, dev int64, w, n int) error {
	users := []User{{UserID: "@x:hs", Tracked: true}, {UserID: "@y:hs", Tracked: true}}
	marked := []id.UserID{"@y:hs", "@x:hs"}
	if w%2 == 0 {
		users[0], users[1] = users[1], users[0]
		marked[0], marked[1] = marked[1], marked[0]
	}
	err := db.Save(t.Context(), acct, dev, &Changes{
		InboundSessions:  []InboundSession{{SessionRef: ref("!r", strconv.Itoa(n)), Pickle: []byte("p")}},
		OutboundSessions: []OutboundSession{{RoomID: "!r", SessionID: "s", Pickle: []byte("p"), Messages: uint32(n + 1), CreatedAt: at(1)}},
		Inbox:            []InboxItem{{Event: []byte("{}")}},
		Users:            users, OutdatedUsers: marked,
	})
	if err != nil {
		return err
	}
	if _, err := db.Users(t.Context(), acct, marked); err != nil {
		return err
	}
	got, err := db.OutboundSession(t.Context(), acct, dev, "!r")
	if err == nil && got.Messages != uint32(n+1) {
		err = fmt.Errorf("saved %d messages and read %d", n+1, got.Messages)
	}
	return err
}

// TestAccountMadeTwiceAtOnce gives everybody the same account with the same key.
func TestAccountMadeTwiceAtOnce(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		var all sync.WaitGroup
		made := make([]*Account, 8)
		for i := range made {
			all.Go(func() {
				acct, err := db.Account(t.Context(), alice)
				if err != nil {
					t.Error(err)
					return
				}
				made[i] = acct
			})
		}
		all.Wait()
		for _, acct := range made {
			if acct == nil || acct.ID != made[0].ID || acct.key.ID() != made[0].key.ID() {
				t.Fatal("two accounts were made for one user")
			}
		}
	})
}
