package store

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/audit"
)

// killURL, when set, makes the test binary the process that is killed.
const killURL = "E2EE_PROXY_TEST_KILL_URL"

const killRooms = 3

// TestKilled kills a process that saves ratchets at random points (attack 52): every save
// that had returned is there afterwards, the ratchet, its transaction and its record in the
// audit log belong together, the log is in order, and the crash is not taken for a restore.
func TestKilled(t *testing.T) {
	t.Parallel()
	if url := os.Getenv(killURL); url != "" {
		sendForEver(t, url)
		return
	}
	onBoth(t, func(t *testing.T, url string) {
		random := rand.New(rand.NewPCG(1, 2))
		for round := range 15 {
			checkAfterKill(t, url, killAfter(t, url, 1+random.IntN(60)), round)
		}
	})
}

// killAfter runs a process until it has reported so many saves and kills it.
func killAfter(t *testing.T, url string, saves int) map[id.RoomID]uint32 {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestKilled$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), killURL+"="+url)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reported := make(map[id.RoomID]uint32)
	for lines := bufio.NewScanner(out); lines.Scan(); saves-- {
		room, n, ok := strings.Cut(lines.Text(), " ")
		count, err := strconv.ParseUint(n, 10, 32)
		if !ok || err != nil {
			t.Errorf("the process said: %s", lines.Text())
			continue
		}
		reported[id.RoomID(room)] = uint32(count)
		if saves == 1 {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.Exited() {
		t.Fatalf("the process was not killed: %v", cmd.ProcessState)
	}
	return reported
}

func checkAfterKill(t *testing.T, url string, reported map[id.RoomID]uint32, round int) {
	t.Helper()
	db := open(t, options(t, url))
	defer closeDB(t, db)
	same(t, "taken for restored", db.Restored(), "")
	acct := must[*Account](t)(db.LookupAccount(t.Context(), alice))
	dev := must[Device](t)(db.Device(t.Context(), acct, "A"))
	defer func() {
		if _, bad := verified(t, db); bad != nil {
			t.Errorf("round %d: %v", round, bad)
		}
	}()
	for room, n := range reported {
		s := must[OutboundSession](t)(db.OutboundSession(t.Context(), acct, dev.ID, room))
		if s.Messages < n {
			t.Errorf("round %d: message %d of %s was reported, %d are stored", round, n, room, s.Messages)
		}
		logged := loggedSaves(t, db, room)
		// PostgreSQL may have finished a save of the killed process before the log was read.
		if now := must[OutboundSession](t)(db.OutboundSession(t.Context(), acct, dev.ID, room)); logged < s.Messages || logged > now.Messages {
			t.Errorf("round %d: message %d of %s is stored, and the log ends with %d", round, s.Messages, room, logged)
		}
		same(t, "ratchet", string(s.Pickle.Reveal()), ratchet(room, s.Messages))
		must[Transaction](t)(db.Transaction(t.Context(), acct, dev.ID, TxnRef{RoomID: room, TxnID: ratchet(room, s.Messages)}))
		if _, err := db.Transaction(t.Context(), acct, dev.ID, TxnRef{RoomID: room, TxnID: ratchet(room, s.Messages+1)}); err == nil {
			// PostgreSQL may have finished a save of the killed process in between.
			if now := must[OutboundSession](t)(db.OutboundSession(t.Context(), acct, dev.ID, room)); now.Messages == s.Messages {
				t.Errorf("round %d: there is a transaction without its ratchet", round)
			}
		}
	}
}

// loggedSaves returns how many saves of a room the audit log has, which must be there once each
// and in order.
func loggedSaves(t *testing.T, db *DB, room id.RoomID) (n uint32) {
	t.Helper()
	for stored, err := range db.AuditLog().Records(t.Context(), 0) {
		if err != nil || stored.Err != nil {
			t.Fatal(err, stored.Err)
		}
		r := must[*audit.Record](t)(audit.Decode(stored.Data))
		if r.Room != room.String() {
			continue
		}
		if n++; r.Index != n {
			t.Fatalf("%s: record %d is of message %d", room, n, r.Index)
		}
	}
	return n
}

func ratchet(room id.RoomID, n uint32) string { return fmt.Sprint(room, " after ", n) }

// sendForEver saves ratchets in several rooms at once and reports each save that returned.
func sendForEver(t *testing.T, url string) {
	db := open(t, options(t, url))
	acct := must[*Account](t)(db.Account(t.Context(), alice))
	dev, err := db.Device(t.Context(), acct, "A")
	if err != nil {
		_, dev = device(t, db, alice, "A")
	}
	var senders sync.WaitGroup
	var printing sync.Mutex
	for i := range killRooms {
		room := id.RoomID("!room" + strconv.Itoa(i))
		s, err := db.OutboundSession(t.Context(), acct, dev.ID, room)
		if err != nil {
			s = OutboundSession{RoomID: room, SessionID: "s", CreatedAt: at(i)}
		}
		senders.Go(func() {
			for {
				s.Messages++
				s.Pickle = []byte(ratchet(room, s.Messages))
				err := db.Save(t.Context(), acct, dev.ID, &Changes{
					OutboundSessions: []OutboundSession{s},
					Transactions:     []Transaction{{TxnRef: TxnRef{RoomID: room, TxnID: ratchet(room, s.Messages)}, CreatedAt: at(0)}},
					Audit:            []*audit.Record{{At: at(0), Kind: audit.KindRoomKey, Room: room.String(), Index: s.Messages}},
				})
				if err != nil {
					fmt.Println(err)
					return
				}
				printing.Lock()
				fmt.Println(room, s.Messages)
				printing.Unlock()
			}
		})
	}
	senders.Wait()
}
