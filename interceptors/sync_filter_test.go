package interceptors_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"e2ee-proxy/interceptors"
	"e2ee-proxy/interceptors/apierr"
)

const (
	narrowFilter = `{"room":{"timeline":{"types":["m.room.message"]}}}`
	wideFilter   = `{"room":{"timeline":{"types":["m.room.message","m.room.encrypted","m.room.encryption","m.room.history_visibility","m.room.member"]}}}`
)

func TestSyncSendsAWiderFilterInline(t *testing.T) {
	t.Parallel()
	w := newSyncWorld(t, emptySync, interceptors.SyncOptions{})
	if _, err := w.sync(t, "since=s1&filter="+narrowFilter); err != nil {
		t.Fatal(err)
	}
	if got := w.up.syncs[0].Get("filter"); got != wideFilter || w.up.posts > 0 {
		t.Errorf("filter is %s", got)
	}
}

// A filter that the client gave by its ID is read once, and its wider form stored once.
func TestSyncFilterByID(t *testing.T) {
	t.Parallel()
	const body = `{"next_batch":"s2","rooms":{"join":{"!a:hs":{"timeline":{"events":[{"type":"m.room.member","state_key":"@a:hs","content":{"membership":"leave"}},{"type":"m.room.message"}]}}}}}`
	w := newSyncWorld(t, body, interceptors.SyncOptions{})
	w.up.filters["7"] = narrowFilter
	for range 3 {
		out, err := w.sync(t, "since=s1&filter=7")
		if err != nil {
			t.Fatal(err)
		}
		if want := strings.Replace(body, `{"type":"m.room.member","state_key":"@a:hs","content":{"membership":"leave"}},`, "", 1); out.Body.String() != want {
			t.Errorf("got %s", out.Body)
		}
	}
	if w.up.gets != 1 || w.up.posts != 1 || w.up.filters["wide1"] != wideFilter {
		t.Errorf("%d gets, %d posts, %v", w.up.gets, w.up.posts, w.up.filters)
	}
	for _, q := range w.up.syncs {
		if q.Get("filter") != "wide1" {
			t.Errorf("filter is %s", q.Get("filter"))
		}
	}
	if got := w.dev.committed[0].Rooms[0].Changes; len(got) != 1 {
		t.Errorf("changes: %v", got)
	}
}

func TestSyncFilterByIDThatNeedNotChange(t *testing.T) {
	t.Parallel()
	w := newSyncWorld(t, emptySync, interceptors.SyncOptions{})
	w.up.filters["7"] = `{"room":{"timeline":{"limit":1}}}`
	if _, err := w.sync(t, "filter=7"); err != nil || w.up.posts > 0 || w.up.syncs[0].Get("filter") != "7" {
		t.Errorf("%d posts, %v, %v", w.up.posts, w.up.syncs, err)
	}
}

// The homeserver's answer about a filter that it does not give is the answer to the sync.
func TestSyncFilterThatIsNotThere(t *testing.T) {
	t.Parallel()
	w := newSyncWorld(t, emptySync, interceptors.SyncOptions{})
	out, err := w.sync(t, "filter=8")
	if err != nil || out.Code != http.StatusNotFound || !strings.Contains(out.Body.String(), "M_NOT_FOUND") || len(w.up.syncs)+len(w.dev.began) > 0 {
		t.Errorf("%d %s, %v", out.Code, out.Body, err)
	}
}

// When a wider filter cannot be stored, it goes up inline.
func TestSyncFilterThatCannotBeStored(t *testing.T) {
	t.Parallel()
	w := newSyncWorld(t, emptySync, interceptors.SyncOptions{})
	w.up.filters["7"], w.up.refuse = narrowFilter, true
	if _, err := w.sync(t, "since=s1&filter=7"); err != nil || w.up.syncs[0].Get("filter") != wideFilter {
		t.Errorf("%v, %v", w.up.syncs, err)
	}
}

// A stored filter that the homeserver no longer knows is stored again the next time.
func TestSyncFilterThatWasForgotten(t *testing.T) {
	t.Parallel()
	w := newSyncWorld(t, emptySync, interceptors.SyncOptions{})
	w.up.filters["7"] = narrowFilter
	w.up.status = http.StatusBadRequest
	if _, err := w.sync(t, "since=s1&filter=7"); err != nil {
		t.Fatal(err)
	}
	w.up.status = http.StatusOK
	if _, err := w.sync(t, "since=s1&filter=7"); err != nil || w.up.posts != 2 || w.up.syncs[1].Get("filter") != "wide2" {
		t.Errorf("%d posts, %v, %v", w.up.posts, w.up.syncs, err)
	}
}

func TestSyncStoresLongFilters(t *testing.T) {
	t.Parallel()
	w := newSyncWorld(t, emptySync, interceptors.SyncOptions{})
	long := `{"room":{"timeline":{"types":["` + strings.Repeat("x", 1000) + `"]}}}`
	if _, err := w.sync(t, "since=s1&filter="+long); err != nil || w.up.syncs[0].Get("filter") != "wide1" {
		t.Errorf("%v, %v", w.up.syncs, err)
	}
}

// A malformed filter is the homeserver's to refuse. Should it not, we do, and nothing
// is committed.
func TestSyncMalformedFilter(t *testing.T) {
	t.Parallel()
	for _, filter := range []string{`{"room":`, `{"room":{},"room":{}}`, `{"x":"` + strings.Repeat("y", 70_000) + `"}`, "7"} {
		w := newSyncWorld(t, emptySync, interceptors.SyncOptions{})
		w.up.filters["7"] = "[]"
		out, err := w.sync(t, "filter="+filter)
		var e *apierr.Error
		if !errors.As(err, &e) || e.Status != http.StatusBadRequest || out.Body.Len() > 0 || len(w.dev.committed) > 0 {
			t.Errorf("%.30s: %v, answered %s", filter, err, out.Body)
		}
		if got := w.up.syncs[0].Get("filter"); got != filter {
			t.Errorf("%.30s went up as %.50s", filter, got)
		}
		w.up.status = http.StatusBadRequest
		if out, err = w.sync(t, "filter="+filter); err != nil || out.Code != http.StatusBadRequest {
			t.Errorf("%.30s: %d, %v", filter, out.Code, err)
		}
	}
}
