package e2ee_test

import (
	"testing"
	"time"

	"e2ee-proxy/internal/liar"
)

// Attack: bob is invited and has not joined. A device of his is stolen and he withdraws its
// signature, and he logs in on another. Synapse (1.163.2) tells nobody of the changes of who is
// only invited, neither in a sync nor in /keys/changes, and the history is for him to read. The
// thief is given nothing more, and the new device reads what is written from then on.
func TestInvitedUsersDevicesChangeUnannounced(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, own := confirmedPuppet(t, st.hs, "bob", "BOB")
	stolen := newPuppet(t, st.hs, "bob", "STOLEN")
	own.confirm(stolen)
	room := st.hs.CreateRoom(true, st.alice.UserID)
	st.hs.Inject(room, invite(st.alice.UserID, bob.UserID))
	h := st.send(room, "before")
	reads(t, bob, h)
	reads(t, stolen, h)
	asked := st.asks()
	st.send(room, "a moment later")
	if n := st.asks() - asked; n > 0 {
		t.Errorf("asked %d times more, a moment after the first answer", n)
	}
	st.hs.EditDeviceKeys(bob.UserID, stolen.DeviceID, func(keys map[string]any) { keys["signatures"] = stolen.deviceKeys()["signatures"] })
	fresh := newPuppet(t, st.hs, "bob", "FRESH")
	own.confirm(fresh)
	st.told()
	st.later(time.Minute)
	h = st.send(room, "after")
	reads(t, bob, h)
	reads(t, fresh, h)
	cannotRead(t, stolen, h)
}

// Somebody is invited who has never logged in, does so, and reads what was written meanwhile.
func TestInvitedUserLogsInForTheFirstTime(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	room := st.hs.CreateRoom(true, st.alice.UserID)
	st.hs.Inject(room, invite(st.alice.UserID, "@bob:"+liar.ServerName))
	st.send(room, "to nobody")
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	st.told()
	st.later(time.Minute)
	reads(t, bob, st.send(room, "welcome"))
}

func (st *stage) asks() int { return len(st.hs.Requests(liar.Is("POST", "keys/query$"))) }

func invite(by, user string) liar.Event {
	ev := memberEvent(user, "invite")
	ev.Sender = by
	return ev
}
