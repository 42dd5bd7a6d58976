package store

import (
	"errors"
	"testing"
)

// How far sessions have moved is read as it was written, in order, and goes when it is deleted.
func TestOlmSteps(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, dev := device(t, db, alice, "A")
		read := func() ([]OlmSteps, int64) {
			all, changes, err := db.OlmSteps(t.Context(), acct, dev.ID)
			if err != nil {
				t.Fatal(err)
			}
			return all, changes
		}
		save(t, db, acct, dev.ID, &Changes{OlmSteps: []OlmSteps{{10, []byte("ten")}}})
		save(t, db, acct, dev.ID, &Changes{OlmSteps: []OlmSteps{{9, []byte("nine")}, {11, []byte("eleven")}}, DeleteOlmSteps: []int64{10}})
		all, changes := read()
		same(t, "steps", all, []OlmSteps{{9, []byte("nine")}, {11, []byte("eleven")}})
		same(t, "changes", changes, int64(2))
		save(t, db, acct, dev.ID, &Changes{DiscardSent: true})
		all, changes = read()
		same(t, "steps after all was discarded", len(all), 0)
		same(t, "changes", changes, int64(3))
	})
}

// Attack: a device was taken out of memory while a request still used it, and is in memory a
// second time. Both know the same Olm sessions; whatever the first stored, the second would
// encrypt with the same message keys again. The store refuses the later of the two, whole.
func TestOlmSessionsAreMovedByOneOnly(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, dev := device(t, db, alice, "A")
		_, known, err := db.OlmSteps(t.Context(), acct, dev.ID)
		if err != nil {
			t.Fatal(err)
		}
		row := OlmSession{SessionID: "o1", TheirKey: "k", Pickle: []byte("first")}
		save(t, db, acct, dev.ID, &Changes{OlmSessions: []OlmSession{row}, OlmChanges: &known})
		row.Pickle = []byte("second")
		for what, late := range map[string]*Changes{
			"a row": {OlmSessions: []OlmSession{row}}, "steps": {OlmSteps: []OlmSteps{{1, []byte("x")}}}, "a deletion": {DeleteOlmSessions: []string{"o1"}},
		} {
			late.OlmChanges = &known
			late.Outbox = []OutboxItem{{TxnID: "out", Body: []byte(`{}`)}}
			if err := db.Save(t.Context(), acct, dev.ID, late); !errors.Is(err, ErrStale) {
				t.Errorf("%s: got %v, want ErrStale", what, err)
			}
		}
		got := must[map[string][]OlmSession](t)(db.OlmSessions(t.Context(), acct, dev.ID, []string{"k"}))
		same(t, "session", string(got["k"][0].Pickle.Reveal()), "first")
		same(t, "outbox", len(must[[]OutboxItem](t)(db.Outbox(t.Context(), acct, dev.ID))), 0)
	})
}
