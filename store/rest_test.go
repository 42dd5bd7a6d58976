package store

import (
	"e2ee-proxy/internal/audit"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
)

// rest returns a Changes with what everything leaves out: deletions and marks.
func rest() *Changes {
	return &Changes{
		DeleteOlmSessions: []string{"o1"}, DiscardOutbound: []id.RoomID{"!r1"}, DeleteOutbox: []string{"out1"},
		DeletePending: []id.EventID{"$p2"}, ReadyPending: []SessionRef{ref("!r3", "m9")}, ReadyPendingFrom: []id.UserID{"@bob:hs"},
		MarkPending: []id.EventID{"$p1"}, PlacePending: []id.EventID{"$p1"}, ShownPending: []id.EventID{"$p2"}, DeleteInbox: []int64{1}, MarkInbox: []int64{2}, MarkDelivered: "s9",
		DeleteWithheld: []SessionRef{ref("!r3", "m9")}, DeleteDevices: []DeviceRef{{"@bob:hs", "B1"}},
		DeleteDistrusts: []UserDevice{goneDevice("B3")}, Distrusts: []UserDevice{goneDevice("B4")},
		DeleteSecrets: []string{"recovery"}, Owners: []SessionOwner{{ref("!r1", "m1"), []byte("owner")}},
		MoreOwners:    []MoreOwners{{OwnersRef{ref("!r1", "m1"), "@bob:hs"}, []byte("more owners")}},
		OutdatedUsers: []id.UserID{"@bob:hs"}, LeftUsers: []id.UserID{"@carol:hs"},
		Notifications: new(secret.Bytes), ControlRoom: secret.Bytes("room"),
		DropSearch: true, DeleteSearch: []int64{7}, Search: []SearchPart{searchPart(7, 2, "index")},
		DeleteOlmSteps: []int64{7}, OlmSteps: []OlmSteps{{8, []byte("steps")}},
		Backed: []BackedSession{{ref("!r1", "m1"), 7, at(1), "3"}},
	}
}

// checkEverythingRuns calls every reader once.
func checkEverythingRuns(t *testing.T, db *DB, acct *Account, dev Device) {
	t.Helper()
	ctx := t.Context()
	countVisible(t, db, acct, dev.ID)
	must[string](t)(db.AuditLog().Checkpoint(ctx))
	must[audit.Report](t)(audit.Verify(ctx, db.AuditLog(), db.AuditSigner(), nil))
	must[*Account](t)(db.LookupAccount(ctx, acct.UserID))
	must[Device](t)(db.Device(ctx, acct, dev.DeviceID))
	must[[]Device](t)(db.Devices(ctx, acct))
	if _, _, err := db.OlmSteps(ctx, acct, dev.ID); err != nil {
		t.Fatal(err)
	}
	must[DeviceRef](t)(db.DeviceOf(ctx, acct.ID, dev.ID))
	must[map[id.RoomID]Room](t)(db.Rooms(ctx, acct, dev.ID, []id.RoomID{"!r1"}))
	must[map[OwnersRef]secret.Bytes](t)(db.MoreOwners(ctx, acct, dev.ID, []OwnersRef{{ref("!r1", "m1"), "@bob:hs"}}))
	must[[]InboundSession](t)(db.ToBackUp(ctx, acct, dev.ID, "3", 1))
	must[[]PendingEvent](t)(db.Pending(ctx, acct, dev.ID, 1))
	must[[]PendingEvent](t)(db.PendingDelivered(ctx, acct, dev.ID, 1))
	must[[]PendingEvent](t)(db.PendingDue(ctx, acct, dev.ID, at(1), 1))
	must[map[id.EventID]PendingEvent](t)(db.PendingOf(ctx, acct, dev.ID, []id.EventID{"$p1"}))
	if _, _, err := db.PendingHeld(ctx, acct, dev.ID); err != nil {
		t.Error(err)
	}
	must[map[id.UserID]User](t)(db.Users(ctx, acct, []id.UserID{"@bob:hs"}))
	must[[]id.UserID](t)(db.OutdatedUsers(ctx, acct))
	must[[]id.UserID](t)(db.TrackedUsers(ctx, acct))
	must[map[id.UserID][]UserDevice](t)(db.UserDevices(ctx, acct, []id.UserID{"@bob:hs"}))
	must[[]UserDevice](t)(db.DeviceExceptions(ctx, acct))
	must[map[id.UserID][]UserDevice](t)(db.Distrusts(ctx, acct, []id.UserID{"@bob:hs"}))
	must[[]UserChange](t)(db.UserChanges(ctx, acct, "@bob:hs"))
	must[[]Secret](t)(db.Secrets(ctx, acct))
	must[[]string](t)(db.MasterKeysInUse(ctx))
	must[map[id.RoomID]EncryptedRoom](t)(db.EncryptedRooms(ctx, []id.RoomID{"!r1"}))
	must[[]SearchPart](t)(db.SearchNumbered(ctx, acct, []int64{1, 2}))
	must[[]SearchPart](t)(db.SearchParts(ctx, acct, []SearchPartRef{{7, 2}}))
	must[bool](t)(db.HasSearch(ctx, acct))
	must[secret.Bytes](t)(db.Notifications(ctx, acct))
	must[secret.Bytes](t)(db.ControlRoom(ctx, acct))
	must[bool](t)(db.Forgotten(ctx, PublishedDevice{acct.UserID, dev.DeviceID, dev.Ed25519}))
	for range db.OwnDevices(ctx) {
	}
}
