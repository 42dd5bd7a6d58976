package trustcache

import (
	"context"
	"fmt"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
)

func BenchmarkLookupWarm100(b *testing.B) {
	srv := newServer()
	var users []id.UserID
	for i := range 100 {
		p := newPerson(id.UserID(fmt.Sprintf("@u%d:example.org", i)), "1")
		srv.publish(p, p.signedDevice("PHONE"))
		users = append(users, p.user)
	}
	x := NewTracker(newMemory(), &store.Account{UserID: alice}, Options{})
	defer x.Close()
	for b.Loop() {
		if _, err := x.Lookup(context.Background(), srv, users); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLookupFirst100(b *testing.B) {
	srv := newServer()
	var users []id.UserID
	for i := range 100 {
		p := newPerson(id.UserID(fmt.Sprintf("@u%d:example.org", i)), "1")
		srv.publish(p, p.signedDevice("ONE"), p.signedDevice("TWO"), p.signedDevice("THREE"))
		users = append(users, p.user)
	}
	for b.Loop() {
		x := NewTracker(newMemory(), &store.Account{UserID: alice}, Options{})
		if _, err := x.Lookup(context.Background(), srv, users); err != nil {
			b.Fatal(err)
		}
		x.Close()
	}
}

// BenchmarkDecision is a whole decision, warm: one user from memory, and whether their device
// is given a key, or what becomes of an event of theirs. At most 1 µs each.
func BenchmarkDecision(b *testing.B) {
	srv := newServer()
	p, me := newPerson(bob, "1"), newPerson(alice, "1")
	srv.publish(p, p.signedDevice("ONE"), p.signedDevice("TWO"), p.signedDevice("THREE"))
	srv.publish(me, me.signedDevice("MINE"))
	x := NewTracker(newMemory(), &store.Account{UserID: alice}, Options{})
	defer x.Close()
	users := []id.UserID{bob}
	find := func(b *testing.B) *User {
		known, err := x.Lookup(context.Background(), srv, users)
		if err != nil {
			b.Fatal(err)
		}
		return known[bob]
	}
	b.Run("send", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			u := find(b)
			if Share(ShareInput{User: u, Device: u.Device("TWO"), SenderUser: alice, SenderDevice: "MINE"}).Outcome != ShareGive {
				b.Fatal("not given")
			}
		}
	})
	b.Run("receive", func(b *testing.B) {
		b.ReportAllocs()
		d := find(b).Device("TWO")
		owner, _ := Owner{UserID: bob, Curve25519: d.Curve25519, Ed25519: d.Ed25519}.Upgrade(find(b))
		for b.Loop() {
			in := JudgeInput{Sender: bob, Own: alice, Source: store.SourceDirect, Owner: owner, OwnerUser: find(b)}
			if Judge(in).Deliver != DeliverClear {
				b.Fatal("not clear")
			}
		}
	})
}

func BenchmarkJudge(b *testing.B) {
	in := JudgeInput{
		Sender: bob, Own: alice, Source: store.SourceDirect, Owner: owned(keyA, true), OwnerUser: in(bob, PinPinned, plainDevice(true)),
	}
	for b.Loop() {
		if Judge(in).Deliver != DeliverClear {
			b.Fatal("not clear")
		}
	}
}

// BenchmarkJudgeUnsigned is an event of a device that is listed and not signed.
func BenchmarkJudgeUnsigned(b *testing.B) {
	p := newPerson(bob, "1")
	d, err := ParseDevice(p.device("PHONE").raw(), bob, "PHONE")
	if err != nil {
		b.Fatal(err)
	}
	u := newEntry(alice, store1(bob), p.identity(b), []Device{d}).user
	owner, _ := Owner{UserID: bob, Curve25519: d.Curve25519, Ed25519: d.Ed25519}.Upgrade(u)
	in := JudgeInput{Sender: bob, Own: alice, Source: store.SourceDirect, Owner: owner, OwnerUser: u}
	for b.Loop() {
		if Judge(in).Deliver != DeliverWithheld {
			b.Fatal("not withheld")
		}
	}
}

func BenchmarkShare(b *testing.B) {
	u := in(bob, PinPinned, plainDevice(true))
	in := ShareInput{User: u, Device: &u.Devices[0], SenderUser: alice, SenderDevice: "PHONE"}
	for b.Loop() {
		if Share(in).Outcome != ShareGive {
			b.Fatal("not given")
		}
	}
}

func BenchmarkGate100(b *testing.B) {
	me := in(alice, PinVerified)
	me.Own = true
	users := []*User{me}
	for range 99 {
		users = append(users, in(bob, PinPinned))
	}
	for b.Loop() {
		if Gate(users, ModeEnforce).Outcome != GateAllow {
			b.Fatal("not allowed")
		}
	}
}

// BenchmarkParseDevice is one device as it comes for the first time: two signatures.
func BenchmarkParseDevice(b *testing.B) {
	p := newPerson(bob, "1")
	raw, self := p.signedDevice("PHONE").raw(), p.selfSign.public
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		d, err := ParseDevice(raw, bob, "PHONE")
		if err != nil || !d.SignedBy(self) {
			b.Fatal("refused")
		}
	}
}

// BenchmarkRestoreDevice is one device as it comes from the store: none.
func BenchmarkRestoreDevice(b *testing.B) {
	p := newPerson(bob, "1")
	raw := p.signedDevice("PHONE").raw()
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if _, _, err := readDevice(raw, bob, "PHONE"); err != nil {
			b.Fatal(err)
		}
	}
}
