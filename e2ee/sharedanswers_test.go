package e2ee_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"e2ee-proxy/internal/liar"
)

// asked returns how often the homeserver was asked about each user.
func asked(t *testing.T, hs *liar.Server) map[string]int {
	t.Helper()
	out := make(map[string]int)
	for _, r := range hs.Requests(liar.Is("POST", "keys/query$")) {
		var body struct {
			DeviceKeys map[string][]string `json:"device_keys"`
		}
		if err := json.Unmarshal(r.Body, &body); err != nil {
			t.Fatal(err)
		}
		for user := range body.DeviceKeys {
			out[user]++
		}
	}
	return out
}

// crowd are several accounts of one engine in a room with other people.
type crowd struct {
	hs     *liar.Server
	stages []*stage
	people []*puppet
	owners []*identity
	room   string
}

func newCrowd(t *testing.T, accounts, people int) *crowd {
	t.Helper()
	c := &crowd{hs: liar.New(t)}
	r := newRig(t, c.hs, unspread(nil))
	var members []string
	for i := range accounts {
		st := stageOn(r, c.hs.Login(fmt.Sprintf("account%d", i), "A"))
		c.stages = append(c.stages, st)
		members = append(members, st.alice.UserID)
	}
	for i := range people {
		p, own := confirmedPuppet(t, c.hs, fmt.Sprintf("bob%d", i), "BOB")
		c.people, c.owners = append(c.people, p), append(c.owners, own)
		members = append(members, p.UserID)
	}
	c.room = c.hs.CreateRoom(true, members...)
	return c
}

// told makes sure that all accounts have heard what the homeserver has to tell.
func (c *crowd) told() {
	for _, st := range c.stages {
		st.told()
	}
}

// Several accounts write into one room, one after the other: the homeserver is asked once
// about each of the others. A device that its owner logs out gets nothing from any of them
// once they were told, and that costs them one question together, not one each.
func TestAccountsOfAnEngineAskOnce(t *testing.T) {
	t.Parallel()
	c := newCrowd(t, 4, 3)
	lost := newPuppet(t, c.hs, "bob0", "LOST")
	c.owners[0].confirm(lost)
	c.told()
	before := asked(t, c.hs)
	for i, st := range c.stages {
		h := st.send(c.room, fmt.Sprintf("from account %d", i))
		reads(t, lost, h)
		for _, p := range c.people {
			reads(t, p, h)
		}
	}
	after := asked(t, c.hs)
	for _, p := range c.people {
		if n := after[p.UserID] - before[p.UserID]; n > 1 {
			t.Errorf("asked %d times about %s", n, p.UserID)
		}
	}
	c.hs.Revoke(lost.Token)
	c.hs.EditDeviceKeys(lost.UserID, lost.DeviceID, func(keys map[string]any) { keys["signatures"] = lost.deviceKeys()["signatures"] })
	c.told()
	heard := asked(t, c.hs)
	for i, st := range c.stages {
		h := st.send(c.room, fmt.Sprintf("without the lost device, from account %d", i))
		cannotRead(t, lost, h)
		reads(t, c.people[0], h)
	}
	// Who hears of the change when a question is already under way has to ask again. Once all have heard, there
	// is one such question at most, which the homeserver may see a moment later.
	now := asked(t, c.hs)
	if n, late := now[lost.UserID]-after[lost.UserID], now[lost.UserID]-heard[lost.UserID]; n < 1 || late > 2 {
		t.Errorf("asked %d times about a change, %d times after all had heard of it", n, late)
	}
}

// An account whose user has another client with the keys of the identity asks for itself: only
// to this account the homeserver shows whom that client has verified.
func TestAccountWithAnotherClientAsksItself(t *testing.T) {
	t.Parallel()
	c := newCrowd(t, 2, 1)
	c.told()
	bob := c.people[0]
	reads(t, bob, c.stages[0].send(c.room, "first"))
	c.stages[1].ownIdentity().confirm(newPuppet(t, c.hs, "account1", "OTHER"))
	c.told()
	c.stages[1].dev.Maintain(t.Context())
	before := asked(t, c.hs)[bob.UserID]
	c.hs.ChangeDevices(bob.UserID)
	c.told()
	for i, st := range c.stages {
		reads(t, bob, st.send(c.room, fmt.Sprintf("from account %d", i)))
	}
	if n := asked(t, c.hs)[bob.UserID] - before; n != 2 {
		t.Errorf("asked %d times", n)
	}
}
