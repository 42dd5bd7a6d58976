package e2ee_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/rediscache"
	"e2ee-proxy/internal/testredis"
	"e2ee-proxy/trustcache"
)

// shares lets a replica leave answers in a Redis for the others.
func (c *cluster) shares(redis *testredis.Server) *trustcache.Answers {
	c.t.Helper()
	address, err := rediscache.ParseAddress(redis.URL())
	if err != nil {
		c.t.Fatal(err)
	}
	cache, err := rediscache.New(rediscache.Options{
		Address: address, Timeout: time.Second, Homeserver: c.hs.URL, Log: zerolog.Nop(),
		Hash: func(purpose string, data []byte) [32]byte {
			return sha256.Sum256([]byte(purpose + "\n" + string(data)))
		},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	const kind rediscache.Kind = "devices"
	answers := trustcache.NewAnswers(trustcache.AnswersOptions{Board: cache.Rounds(kind, time.Minute)})
	cache.Listen(kind, rediscache.Listener{Said: answers.Heard})
	ctx, stop := context.WithCancel(context.WithoutCancel(c.t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- cache.Run(ctx) }()
	c.t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			c.t.Error(err)
		}
		if err := cache.Close(); err != nil {
			c.t.Error(err)
		}
	})
	await(c.t, "Redis is not used", func() bool {
		since, listens := cache.Listening()
		return listens && time.Since(since) > 2*time.Second
	})
	return answers
}

// Accounts of three replicas write into one room, one after the other: the homeserver is asked
// once about each of the others. A device that its owner logs out gets nothing from any of them
// once they were told. An account that moves to another replica takes nothing there from before.
func TestReplicasAskOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	redis := testredis.Start(t)
	var stages []*stage
	var members []string
	var replicas []*rig
	for i := range 3 {
		answers := c.shares(redis)
		r := c.join(fmt.Sprintf("replica%d", i), func(o *e2ee.Options) { o.Answers = answers })
		replicas = append(replicas, r)
		for k := range 2 {
			st := stageOn(r, c.hs.Login(fmt.Sprintf("account%d%d", i, k), "A"))
			stages, members = append(stages, st), append(members, st.alice.UserID)
		}
	}
	var people []*puppet
	lost := newPuppet(t, c.hs, "bob0", "LOST")
	for i := range 3 {
		p, own := confirmedPuppet(t, c.hs, fmt.Sprintf("bob%d", i), "BOB")
		if i == 0 {
			own.confirm(lost)
		}
		people, members = append(people, p), append(members, p.UserID)
	}
	room := c.hs.CreateRoom(true, members...)
	for _, st := range stages {
		st.told()
	}
	before := asked(t, c.hs)
	for i, st := range stages {
		h := st.send(room, fmt.Sprintf("from account %d", i))
		reads(t, lost, h)
		for _, p := range people {
			reads(t, p, h)
		}
	}
	after := asked(t, c.hs)
	for _, p := range people {
		if n := after[p.UserID] - before[p.UserID]; n > 1 {
			t.Errorf("asked %d times about %s", n, p.UserID)
		}
	}
	c.hs.EditDeviceKeys(lost.UserID, lost.DeviceID, func(keys map[string]any) { keys["signatures"] = lost.deviceKeys()["signatures"] })
	moved := stages[0]
	moved.handOver(replicas[1])
	for _, st := range stages[1:] {
		st.told()
	}
	for i, st := range stages {
		h := st.send(room, fmt.Sprintf("without the lost device, from account %d", i))
		cannotRead(t, lost, h)
		reads(t, people[0], h)
	}
}
