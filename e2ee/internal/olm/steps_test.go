package olm

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// disk is what a database holds of one device's sessions.
type disk struct {
	rows  map[string]store.OlmSession // by session ID
	steps map[int64]store.OlmSteps
}

func (d *disk) save(ch *store.Changes) {
	for _, gone := range ch.DeleteOlmSessions {
		delete(d.rows, gone)
	}
	for _, gone := range ch.DeleteOlmSteps {
		delete(d.steps, gone)
	}
	for _, row := range ch.OlmSessions {
		d.rows[row.SessionID] = row
	}
	for _, s := range ch.OlmSteps {
		d.steps[s.Number] = s
	}
}

// load reads all sessions, as after a restart.
func (d *disk) load(t *testing.T) (map[string][]store.OlmSession, *Steps) {
	t.Helper()
	var lists []store.OlmSteps
	for _, number := range slices.Sorted(maps.Keys(d.steps)) {
		lists = append(lists, d.steps[number])
	}
	steps, err := ReadSteps(lists)
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string][]store.OlmSession)
	for _, row := range d.rows {
		one := []store.OlmSession{row}
		steps.Advance(one)
		rows[row.TheirKey] = append(rows[row.TheirKey], one...)
	}
	return rows, steps
}

// Attack: a proxy is killed and started again and again, between room keys for many devices,
// messages to few and answers from some. A session that is not where it was would encrypt two
// texts with one key, which whoever reads the network could tell apart. So after every change
// what a restart reads is exactly what memory had, in few rows.
func TestStepsSurviveRestarts(t *testing.T) {
	t.Parallel()
	const peers = 120
	random := rand.New(rand.NewPCG(3, 4))
	alice := newEnd(t, "@alice:x", "ALICE")
	others := make([]*end, peers)
	for i := range others {
		others[i] = newEnd(t, "@bob:x", id.DeviceID(fmt.Sprint("B", i)))
		others[i].begins(alice, alice.seal(others[i], "one", others[i].oneTimeKey()), "one")
	}
	d := &disk{rows: make(map[string]store.OlmSession), steps: make(map[int64]store.OlmSteps)}
	steps := &Steps{}
	used := make(map[[keySize]byte]bool)
	written, most := 0, 0
	for round := range 150 {
		var sealed []Message
		if round > 0 {
			var devices []*trustcache.Device
			few := 1 + random.IntN(8)
			many := minSteps + random.IntN(peers-minSteps)
			for _, i := range random.Perm(peers)[:[]int{few, many, many}[random.IntN(3)]] {
				devices = append(devices, others[i].dev)
				if random.IntN(6) == 0 {
					alice.reads(others[i], others[i].seal(alice, "answer", ""), "answer")
				}
			}
			frame := NewFrame(alice.own, "@alice:x", nil, "m.dummy", []byte(`{"text":"x"}`))
			sealed, _, _ = alice.all.SealAll(alice.own, frame, devices, nil, alice.now)
		}
		var ch store.Changes
		moves := alice.all.Collect(&ch, steps)
		if round == 0 || random.IntN(5) > 0 { // else it is not stored: nothing is sent, and memory is dropped
			for _, m := range sealed {
				if used[m.letter.key] {
					t.Fatal("a message key is used twice")
				}
				used[m.letter.key] = true
			}
			d.save(&ch)
			steps.Apply(moves)
			memory := alice.all.byKey
			rows, _ := d.load(t)
			for key, list := range memory {
				if string(list[0].pickled()) != string(rows[key.String()][0].Pickle) {
					t.Fatalf("round %d: a restart finds another session", round)
				}
			}
			written, most = written+len(ch.OlmSteps), max(most, len(d.steps))
		}
		rows, read := d.load(t)
		alice.load(rows)
		if random.IntN(2) == 0 {
			steps = read // a restart
		}
	}
	if written < 30 || most > 8 {
		t.Errorf("%d lists were written, there were %d at once", written, most)
	}
}
