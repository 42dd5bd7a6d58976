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
