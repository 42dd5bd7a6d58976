package store

import (
	"fmt"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store/internal/sqlio"
)

// TestBigBatchesTakeFewStatements: never one statement for each row, whatever the number,
// and never more parameters than a database takes.
func TestBigBatchesTakeFewStatements(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		var h hook
		o := options(t, url)
		o.Wrap = h.wrap
		db := open(t, o)
		for _, row := range []struct{ rows, statements int }{
			{1, 1}, {2, 1}, {3, 2}, {255, 8}, {256, 1}, {257, 2}, {1000, 6}, {5000, 13},
		} {
			acct, dev := device(t, db, alice, id.DeviceID(fmt.Sprint("D", row.rows)))
			shares := manyShares(row.rows)
			sessions := make([]OlmSession, row.rows)
			for i := range sessions {
				sessions[i] = OlmSession{SessionID: fmt.Sprint("o", i), TheirKey: "k", Pickle: []byte("pickle")}
			}
			h.watch(nil)
			save(t, db, acct, dev.ID, &Changes{Shares: shares, OlmSessions: sessions})
			inserts := 0
			for _, s := range h.statements() {
				if strings.HasPrefix(s, "INSERT INTO olm_sessions") {
					inserts++
				}
			}
			if inserts > row.statements {
				t.Errorf("%d sessions took %d statements, want at most %d", row.rows, inserts, row.statements)
			}
			same(t, "shares", must[[]Share](t)(db.Shares(t.Context(), acct, dev.ID, "x")), shares)
		}
	})
}

func manyShares(n int) []Share {
	all := make([]Share, n)
	for i := range all {
		all[i] = Share{
			SessionID: "x", UserID: id.UserID(fmt.Sprintf("@user%05d:hs.example", i)), DeviceID: "ABCDEFGHIJ",
			Curve25519: "4OHPgYqQfXRaNEMpDwmxQ1nv2dCCxwbtHTKXoKJQhXg", Index: uint32(i),
		}
	}
	return all
}

// TestBigListsAreReadWhole crosses the limits of one statement while reading and deleting.
func TestBigListsAreReadWhole(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, dev := device(t, db, alice, "A")
		ctx := t.Context()
		for _, n := range []int{1, 5, 2047, 2048, 2049, 5000} {
			sessions, keys := manySessions(n)
			inbound, refs := manyInbound(n)
			save(t, db, acct, dev.ID, &Changes{OlmSessions: sessions, InboundSessions: inbound})
			olm := must[map[string][]OlmSession](t)(db.OlmSessions(ctx, acct, dev.ID, keys))
			in := must[map[SessionRef]InboundSession](t)(db.InboundSessions(ctx, acct, dev.ID, refs))
			same(t, "sessions", []int{len(olm), len(in)}, []int{n, n})
			for _, s := range sessions {
				if len(olm[s.TheirKey]) != 1 || olm[s.TheirKey][0].SessionID != s.SessionID {
					t.Fatalf("session %s of %d is missing or there twice", s.SessionID, n)
				}
			}
			all := 0
			for _, err := range db.AllInboundSessions(ctx, acct, dev.ID) {
				must[int](t)(0, err)
				all++
			}
			same(t, "AllInboundSessions", all, n)
			marks := make([]BackedSession, n)
			for i := range marks {
				marks[i] = BackedSession{SessionRef: refs[i], Version: "v"}
			}
			gone := make([]string, n)
			for i := range gone {
				gone[i] = sessions[i].SessionID
			}
			save(t, db, acct, dev.ID, &Changes{Backed: marks, DeleteOlmSessions: gone})
			same(t, "CountToBackUp", must[int](t)(db.CountToBackUp(ctx, acct, dev.ID, "v")), 0)
			same(t, "deleted", len(must[map[string][]OlmSession](t)(db.OlmSessions(ctx, acct, dev.ID, keys))), 0)
		}
	})
}

func manySessions(n int) (all []OlmSession, keys []string) {
	for i := range n {
		s := OlmSession{
			SessionID: fmt.Sprintf("session%06d", i), TheirKey: fmt.Sprintf("4OHPgYqQfXRaNEMpDwmxQ1nv2dCCxwbtHTKXo%06d", i),
			Pickle: make([]byte, 500), CreatedAt: at(i),
		}
		all, keys = append(all, s), append(keys, s.TheirKey)
	}
	return all, keys
}

func manyInbound(n int) (all []InboundSession, refs []SessionRef) {
	for i := range n {
		r := ref(fmt.Sprintf("!room%d:hs", i%7), fmt.Sprintf("session%06d", i))
		all = append(all, InboundSession{SessionRef: r, Pickle: []byte("p"), Owner: []byte("o"), Source: SourceDirect})
		refs = append(refs, r)
	}
	return all, refs
}

// TestFixedParametersComeFirst: SQLite numbers the parameters of the list after those that
// it has met, so a fixed one that comes later would shift them all.
func TestFixedParametersComeFirst(t *testing.T) {
	t.Parallel()
	for _, q := range []*sqlio.ListStatement{
		putOlmSessions, dropOlmSessions, selectOlmSessions, putInbound, selectInbound, putOwners, putMoreOwners, selectMoreOwners, markBacked, putIndices, selectIndices,
		putOutbound, markDiscarded, putOlmSteps, dropOlmSteps, putTransactions, putOutbox, dropOutbox, putRooms, selectRooms, putPending, dropPending,
		makeReady, releaseFrom, deliverPending, placePending, showPending, findPending, putInbox, dropInbox, deliverInbox, putWithheld, dropWithheld, selectWithheld, putSeen, selectSeen,
		putUsers, selectUsers, markOutdated, markLeft, putUserChanges, putUserDevices, dropUserDevices, selectUserDevices,
		putDistrusts, dropDistrusts, selectDistrusts,
		putSecrets, dropSecrets, putWarnings, rewrapAccounts, putEncryptedRooms, selectEncryptedRooms, putUnread, dropUnread, selectUnread,
	} {
		before, _, _ := strings.Cut(q.Head+q.Item, "?")
		for i := range q.Fixed {
			if !strings.Contains(before, fmt.Sprint("$", i+1)) {
				t.Errorf("$%d comes after the list of %s", i+1, q.Head)
			}
		}
		if n := strings.Count(q.Item, "?"); n != q.Width || strings.Contains(q.Head+q.Tail, "?") {
			t.Errorf("%d parameters in an item of %d: %s", n, q.Width, q.Head)
		}
	}
}
