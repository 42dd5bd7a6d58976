package main

import (
	"strings"
	"testing"
	"time"

	"e2ee-proxy/internal/audit"
)

// The list of who could read a room says what it does not know.
func TestReadersText(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 30, 8, 0, 0, 0, time.UTC)
	one := audit.Reader{User: "@bob:x", Device: "PHONE", Ed25519: "ed", Since: at, Last: at.Add(time.Hour), Keys: 2, How: []audit.Kind{audit.KindRoomKey}, RefusedSince: at.Add(2 * time.Hour)}
	want := "@bob:x PHONE since 2026-11-30T08:00:00Z, last given a key 2026-11-30T09:00:00Z, 2 in all, room_key; refused since 2026-11-30T10:00:00Z; key ed\n"
	if got := readersText([]audit.Reader{one}, 0); got != want {
		t.Error(got)
	}
	if got := readersText(nil, 7); !strings.HasPrefix(got, "this proxy has given nobody a key of that room\n") || !strings.Contains(got, "the first 7 records were removed") {
		t.Error(got)
	}
}

// What a log that was truncated is said to be.
func TestVerifiedText(t *testing.T) {
	t.Parallel()
	got := verified(&audit.Report{Checkpoint: audit.Checkpoint{Size: 9}, KeptFrom: 3, RemovedAt: time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)})
	if !strings.Contains(got, "the first 3 were removed on 2026-11-30 because of their age") || !strings.Contains(got, "no checkpoint was given") {
		t.Error(got)
	}
}

// Attack: somebody gives their device a name with line ends or what steers a terminal, so that
// the list of who could read a room has lines that nobody wrote, or lacks some.
func TestReadersWithNamesThatAreMoreThanNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"X\n@boss:hs GOOD since", "X\r", "X\x1b[2K", "X since 2020-01-01", "X\u202e", "X\u0085", "X\"", ""} {
		one := audit.Reader{User: "@a:hs", Device: name, Ed25519: "key", How: []audit.Kind{audit.KindRoomKey}}
		got := readersText([]audit.Reader{one, {User: "@b:hs" + name, Device: "B"}}, 0)
		if strings.Count(got, "\n") != 2 || strings.ContainsAny(got, "\r\x1b\u202e\u0085") || strings.Contains(got, " X since 2020") {
			t.Errorf("%q:\n%q", name, got)
		}
	}
}
