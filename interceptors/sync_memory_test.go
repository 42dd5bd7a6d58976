package interceptors_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"e2ee-proxy/interceptors"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/budget"
)

// A homeserver answers a sync with megabytes that the engine has to hold. They come out of
// one budget for everybody: when it is spent the client is told to come back, nothing is
// committed, and what was held is given back whatever came of it.
func TestSyncHoldsNoMoreThanItMay(t *testing.T) {
	t.Parallel()
	one := `{"type":"x","content":{"pad":"` + strings.Repeat("x", 16<<10) + `"}}`
	body := `{"next_batch":"s2","to_device":{"events":[` + strings.Repeat(one+",", 70) + one + `]}}`
	room := budget.New(2<<20, 2<<20)
	w := newSyncWorld(t, body, interceptors.SyncOptions{UpdateMemory: room})
	if err := room.Take("@eve:hs", 1<<20); err != nil {
		t.Fatal(err)
	}
	_, err := w.sync(t, "since=s1")
	var told *apierr.Error
	if !errors.As(err, &told) || told.Status != http.StatusTooManyRequests || told.ErrCode != apierr.CodeLimitExceeded {
		t.Errorf("with the budget spent: %v", err)
	}
	if len(w.dev.committed) > 0 || room.Taken() != 1<<20 {
		t.Errorf("%d committed, %d held", len(w.dev.committed), room.Taken())
	}
	room.Release("@eve:hs", 1<<20)
	out, err := w.sync(t, "since=s1")
	if err != nil || out.Code != http.StatusOK || len(w.dev.committed) != 1 || room.Taken() != 0 {
		t.Errorf("afterwards: %d, %v, %d committed, %d held", out.Code, err, len(w.dev.committed), room.Taken())
	}
}
