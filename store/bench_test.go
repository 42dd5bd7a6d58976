package store

import (
	"fmt"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"
)

// Run with TMPDIR on the disk that is to be measured: a commit waits for it.

func benchBoth(b *testing.B, bench func(b *testing.B, db *DB, acct *Account, dev Device)) {
	b.Helper()
	b.Run("sqlite", func(b *testing.B) {
		db := open(b, options(b, liteURL(b)))
		acct, dev := device(b, db, alice, "A")
		bench(b, db, acct, dev)
	})
	b.Run("postgres-nosync", func(b *testing.B) {
		db := open(b, options(b, postgres.Database(b)))
		acct, dev := device(b, db, alice, "A")
		bench(b, db, acct, dev)
	})
	b.Run("cluster-nosync", func(b *testing.B) {
		o := options(b, postgres.Database(b))
		o.Cluster = &Cluster{}
		db := open(b, o)
		acct, dev := device(b, db, alice, "A")
		bench(b, db, acct, dev)
	})
}

// BenchmarkSync is the reference: a page written and synced, which a durable commit cannot beat.
func BenchmarkSync(b *testing.B) {
	f, err := openMark(filepath.Join(b.TempDir(), "mark"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = f.close() }()
	page := make([]byte, 4096)
	for i := 0; b.Loop(); i++ {
		if _, err := f.f.WriteAt(page, int64(i%256)*4096); err != nil {
			b.Fatal(err)
		}
		if err := f.f.Sync(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSaveRatchet is the store's part of one encrypted send: ratchet and transaction.
func BenchmarkSaveRatchet(b *testing.B) {
	benchBoth(b, func(b *testing.B, db *DB, acct *Account, dev Device) {
		s := OutboundSession{RoomID: "!room:hs.example", SessionID: "session", Pickle: make([]byte, 300), CreatedAt: at(0)}
		cipher := make([]byte, 600)
		for i := range cipher {
			cipher[i] = 'x'
		}
		for b.Loop() {
			s.Messages++
			save(b, db, acct, dev.ID, &Changes{
				OutboundSessions: []OutboundSession{s},
				Transactions: []Transaction{{
					TxnRef: TxnRef{s.RoomID, "m.room.message", fmt.Sprint("m", s.Messages)}, Ciphertext: cipher, CreatedAt: at(0),
				}},
			})
		}
	})
}

// BenchmarkSaveRatchetParallel is the same from many devices at once.
func BenchmarkSaveRatchetParallel(b *testing.B) {
	benchBoth(b, func(b *testing.B, db *DB, _ *Account, _ Device) {
		const parallel = 16
		b.SetParallelism(parallel)
		type sender struct {
			acct *Account
			dev  int64
		}
		senders := make(chan sender, parallel*runtime.GOMAXPROCS(0))
		for i := range cap(senders) {
			acct, dev := device(b, db, id.UserID(fmt.Sprintf("@u%d:hs", i)), "A")
			senders <- sender{acct, dev.ID}
		}
		b.ResetTimer()
		b.RunParallel(func(p *testing.PB) {
			from := <-senders
			defer func() { senders <- from }()
			name := id.SessionID(fmt.Sprint("session", b.N)) // the benchmark runs with growing b.N
			s := OutboundSession{RoomID: "!room:hs.example", SessionID: name, Pickle: make([]byte, 300), CreatedAt: time.Now()}
			for p.Next() {
				s.Messages++
				save(b, db, from.acct, from.dev, &Changes{OutboundSessions: []OutboundSession{s}})
			}
		})
	})
}

// BenchmarkSaveShares is a room key given to 1,000 devices: shares and Olm sessions.
func BenchmarkSaveShares(b *testing.B) {
	benchBoth(b, func(b *testing.B, db *DB, acct *Account, dev Device) {
		shares := manyShares(1000)
		olm, _ := manySessions(1000)
		for n := 0; b.Loop(); n++ {
			for i := range shares {
				shares[i].SessionID = id.SessionID(fmt.Sprint("x", n))
			}
			save(b, db, acct, dev.ID, &Changes{Shares: shares, OlmSessions: olm})
		}
	})
}

// BenchmarkSaveSharesOnly leaves out the Olm sessions.
func BenchmarkSaveSharesOnly(b *testing.B) {
	benchBoth(b, func(b *testing.B, db *DB, acct *Account, dev Device) {
		shares := manyShares(1000)
		for n := 0; b.Loop(); n++ {
			for i := range shares {
				shares[i].SessionID = id.SessionID(fmt.Sprint("x", n))
			}
			save(b, db, acct, dev.ID, &Changes{Shares: shares})
		}
	})
}

// BenchmarkLoadOlmSessions reads the Olm sessions with 1,000 devices.
func BenchmarkLoadOlmSessions(b *testing.B) {
	benchBoth(b, func(b *testing.B, db *DB, acct *Account, dev Device) {
		olm, keys := manySessions(1000)
		save(b, db, acct, dev.ID, &Changes{OlmSessions: olm})
		for b.Loop() {
			if got := must[map[string][]OlmSession](b)(db.OlmSessions(b.Context(), acct, dev.ID, keys)); len(got) != len(keys) {
				b.Fatal(len(got))
			}
		}
	})
}

// BenchmarkInboundSession reads one room key, as a decryption does that finds none in memory.
func BenchmarkInboundSession(b *testing.B) {
	benchBoth(b, func(b *testing.B, db *DB, acct *Account, dev Device) {
		in, refs := manyInbound(1000)
		save(b, db, acct, dev.ID, &Changes{InboundSessions: in})
		for b.Loop() {
			must[map[SessionRef]InboundSession](b)(db.InboundSessions(b.Context(), acct, dev.ID, refs[500:501]))
		}
	})
}

// BenchmarkOwnDevices is the store's part of a round with 10,000 devices of as many accounts.
func BenchmarkOwnDevices(b *testing.B) {
	benchBoth(b, func(b *testing.B, db *DB, _ *Account, _ Device) {
		const devices = 10_000
		done := make(chan struct{}, 64)
		for i := range devices {
			done <- struct{}{}
			go func() {
				defer func() { <-done }()
				acct, err := db.Account(b.Context(), id.UserID(fmt.Sprintf("@user%d:hs", i)))
				if err == nil {
					_, err = db.CreateDevice(b.Context(), acct, Device{
						DeviceID: "A", State: DeviceOurs, Olm: make([]byte, 3000), Token: secretString("syt_0123456789012345678901234567890123456789"),
					})
				}
				if err != nil {
					b.Error(err)
				}
			}()
		}
		for range cap(done) {
			done <- struct{}{}
		}
		for b.Loop() {
			n := 0
			for _, err := range db.OwnDevices(b.Context()) {
				if err != nil {
					b.Fatal(err)
				}
				n++
			}
			if n != devices+1 {
				b.Fatal(n)
			}
		}
	})
}

// BenchmarkClaimOrphans is the store's part of a replica's start with 10,000 accounts that
// nobody has, of which it takes all, beside two that have others.
func BenchmarkClaimOrphans(b *testing.B) {
	o := options(b, postgres.Database(b))
	o.Cluster, o.Lease = &Cluster{}, time.Hour
	db := open(b, o)
	makeAccounts(b, db, 10_000)
	for range 2 {
		other := open(b, o)
		if err := other.Drain(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		accts, err := db.ClaimOrphans(b.Context(), 20_000)
		if err != nil || len(accts) != 10_000 {
			b.Fatal(len(accts), err)
		}
		b.StopTimer()
		if err := db.Release(b.Context(), accts...); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
