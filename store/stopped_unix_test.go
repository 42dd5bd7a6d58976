//go:build unix

package store

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// stopURL, when set, makes the test binary the replica that is stopped.
const stopURL = "E2EE_PROXY_TEST_STOP_URL"

// A process that sends all the time is stopped at a random point (SIGSTOP, as a suspended
// machine or a debugger does), for longer than its lease. Another replica takes its account and
// goes on with the ratchet. Then the first one continues, in the middle of whatever it did:
// nothing that it says it has stored may come after what the other one has read.
func TestStoppedProcessUsesNoRatchet(t *testing.T) {
	t.Parallel()
	if url := os.Getenv(stopURL); url != "" {
		sendUntilLost(t, url)
		return
	}
	ctx := t.Context()
	url := postgres.Database(t)
	for round := range 4 {
		cmd, lines := startSender(t, url)
		for range 5 + 7*round {
			if !lines.Scan() {
				t.Fatal("it ended")
			}
		}
		if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		b := replica(t, url, "http://b")
		var mine *Account
		await(t, "the end of its time", func() bool {
			var err error
			if mine, err = b.Claim(ctx, alice); err != nil && !errors.Is(err, ErrElsewhere) {
				t.Error(err)
			}
			return mine != nil
		})
		dev := must[Device](t)(b.Device(ctx, mine, "A"))
		found := must[OutboundSession](t)(b.OutboundSession(ctx, mine, dev.ID, "!r1")).Messages
		save(t, b, mine, dev.ID, ratchetOf(found+1))
		if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() {
			n, err := strconv.ParseUint(lines.Text(), 10, 32)
			if err != nil {
				// Unsure is whose connection PostgreSQL had closed in the middle of a commit.
				if !strings.Contains(lines.Text(), ErrNotOwner.Error()) && !strings.Contains(lines.Text(), ErrUnsure.Error()) {
					t.Errorf("it ended with: %s", lines.Text())
				}
				break
			}
			if uint32(n) > found {
				t.Fatalf("round %d: it stored message %d after another one had read %d", round, n, found)
			}
		}
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		same(t, "messages", must[OutboundSession](t)(b.OutboundSession(ctx, mine, dev.ID, "!r1")).Messages, found+1)
		closeDB(t, b)
	}
}

func startSender(t *testing.T, url string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestStoppedProcessUsesNoRatchet$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), stopURL+"="+url)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

// sendUntilLost saves a ratchet again and again, and says when it was stored. It ends when the
// account is lost.
func sendUntilLost(t *testing.T, url string) {
	lost := make(chan *Account, 1)
	o := options(t, url)
	o.Lease, o.renewTicks, o.Cluster = 500*time.Millisecond, nil, &Cluster{Lost: func(acct *Account) { lost <- acct }}
	db := open(t, o)
	acct := claim(t, db, alice)
	dev, err := db.Device(t.Context(), acct, "A")
	if err != nil {
		_, dev = device(t, db, alice, "A")
	}
	n := uint32(0)
	if s, err := db.OutboundSession(t.Context(), acct, dev.ID, "!r1"); err == nil {
		n = s.Messages
	}
	for {
		n++
		if err := db.Save(t.Context(), acct, dev.ID, ratchetOf(n)); err != nil {
			fmt.Println(err)
			break
		}
		fmt.Println(n)
	}
	if acct != <-lost {
		t.Error("another account was lost")
	}
}
