package interceptors_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors"
	"e2ee-proxy/internal/parallel"
)

// aheadDevice opens events as quickDevice does, in parts.
type aheadDevice struct {
	quickDevice
	mu      sync.Mutex
	in      map[*e2ee.Prepared][]e2ee.Incoming
	order   []string // the first events of the batches that were settled and opened
	prepare func(n int)
	open    func(n int) error
	settle  func(n int)
	settled int
	opened  int
	ended   bool
	forget  bool // what was opened
	made    int
	t       testing.TB
}

func (d *aheadDevice) Prepare(_ context.Context, in []e2ee.Incoming) *e2ee.Prepared {
	d.mu.Lock()
	if d.ended {
		d.t.Error("something goes on after the answer")
	}
	if d.in == nil {
		d.in = make(map[*e2ee.Prepared][]e2ee.Incoming)
	}
	p, n := &e2ee.Prepared{}, d.made
	d.in[p] = in
	d.made++
	d.mu.Unlock()
	if d.prepare != nil {
		d.prepare(n)
	}
	return p
}

func (d *aheadDevice) note(what string, p *e2ee.Prepared) []e2ee.Incoming {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.forget {
		in := d.in[p]
		if what == "opened " {
			delete(d.in, p)
		}
		return in
	}
	d.order = append(d.order, what+string(d.in[p][0].Event[:400]))
	return slices.Clone(d.in[p])
}

func (d *aheadDevice) Settle(_ context.Context, p *e2ee.Prepared) {
	d.note("settled ", p)
	if d.settle != nil {
		d.settle(d.settled)
	}
	d.settled++
}

func (d *aheadDevice) OpenPrepared(ctx context.Context, p *e2ee.Prepared) ([]e2ee.Opened, error) {
	in := d.note("opened ", p)
	d.opened++
	if d.open != nil {
		if err := d.open(d.opened); err != nil {
			return nil, err
		}
	}
	return d.Open(ctx, in)
}

type aheadDevices struct {
	interceptors.Devices
	dev *aheadDevice
}

func (d aheadDevices) Device(context.Context, interceptors.Identity) (interceptors.Device, error) {
	return d.dev, nil
}

// ahead answers a sync of a device.
func (w *syncWorld) ahead(t testing.TB, dev *aheadDevice, out http.ResponseWriter) error {
	t.Helper()
	return w.aheadFor(t.Context(), t, dev, out)
}

// aheadFor is ahead for a client that may hang up.
func (w *syncWorld) aheadFor(ctx context.Context, t testing.TB, dev *aheadDevice, out http.ResponseWriter) error {
	t.Helper()
	dev.mode, dev.t = e2ee.ModeProxied, t
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "/_matrix/client/v3/sync", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	err = w.handler(&interceptors.Exchange{
		Writer: out, Request: req, Identity: interceptors.Identity{UserID: "@me:example.org"},
		Upstream: w.up, Devices: aheadDevices{dev: dev},
	})
	dev.mu.Lock()
	defer dev.mu.Unlock()
	dev.ended = true
	return err
}

// keeping is a client that keeps what it gets, and says once that it has a part.
type keeping struct {
	discard
	body bytes.Buffer
	some chan struct{} // nil: nobody asks
}

func (k *keeping) Write(p []byte) (int, error) {
	k.body.Write(p)
	if k.some != nil && k.body.Len() > 100<<10 {
		close(k.some)
		k.some = nil
	}
	return len(p), nil
}

func aheadWorld(t *testing.T) *syncWorld {
	t.Helper()
	w := newSyncWorld(t, "", interceptors.SyncOptions{})
	body := syncBody(1<<20, 5000)
	w.up.body = func() io.Reader { return bytes.NewReader(body) }
	return w
}

// The answer is the same whether its events are opened one batch after the other, or each is
// prepared while the one before it is done; and the order in which they count is that of the
// events.
func TestSyncOpensAhead(t *testing.T) {
	t.Parallel()
	w := aheadWorld(t)
	plain := &keeping{discard: discard{header: http.Header{}}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/_matrix/client/v3/sync", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.handler(&interceptors.Exchange{
		Writer: plain, Request: req, Identity: interceptors.Identity{UserID: "@me:example.org"},
		Upstream: w.up, Devices: quickDevices{dev: &quickDevice{syncDevice{mode: e2ee.ModeProxied}}},
	}); err != nil {
		t.Fatal(err)
	}
	dev, out := &aheadDevice{}, &keeping{discard: discard{header: http.Header{}}}
	if err := w.ahead(t, dev, out); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(plain.body.Bytes(), out.body.Bytes()) || bytes.Count(out.body.Bytes(), []byte(`"decrypted":true,`)) < 5000 {
		t.Errorf("the answers differ: %d and %d bytes", plain.body.Len(), out.body.Len())
	}
	var settled, opened []string
	for _, step := range dev.order {
		if after, ok := bytes.CutPrefix([]byte(step), []byte("settled ")); ok {
			settled = append(settled, string(after))
		} else {
			opened = append(opened, step[len("opened "):])
		}
	}
	if len(opened) < 4 || !slices.Equal(settled, opened) {
		t.Errorf("%d batches were settled, %d opened, or in another order", len(settled), len(opened))
	}
}

// A batch never delays an event that could be shown: what was opened reaches the client while the
// next batch is still being decrypted.
func TestSyncDoesNotWaitForTheNextBatch(t *testing.T) {
	t.Parallel()
	w := aheadWorld(t)
	some := make(chan struct{})
	out := &keeping{discard: discard{header: http.Header{}}, some: some}
	dev := &aheadDevice{prepare: func(n int) {
		if n != 1 {
			return
		}
		select {
		case <-some:
		case <-time.After(20 * time.Second):
			t.Error("the client has nothing of the first batch")
		}
	}}
	if err := w.ahead(t, dev, out); err != nil {
		t.Fatal(err)
	}
}

// What fails ends the answer, and nothing of it goes on.
func TestSyncAheadFails(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for _, at := range []int{1, 2, 3} {
		w := aheadWorld(t)
		out := &keeping{discard: discard{header: http.Header{}}}
		dev := &aheadDevice{open: func(n int) error {
			if n == at {
				return broken
			}
			return nil
		}}
		if err := w.ahead(t, dev, out); !errors.Is(err, broken) {
			t.Errorf("batch %d: %v", at, err)
		}
		if dev.opened != at {
			t.Errorf("%d batches were opened", dev.opened)
		}
	}
}

// Attack: something in an answer makes the code panic that takes it apart, in a batch that is opened
// ahead. It is an error of this answer, and no half of it counts as whole.
func TestSyncAheadPanics(t *testing.T) {
	t.Parallel()
	for name, dev := range map[string]*aheadDevice{
		"when it is prepared": {prepare: func(n int) {
			if n == 2 {
				panic("in the middle")
			}
		}},
		"when it is opened": {open: func(n int) error {
			if n == 2 {
				panic("in the middle")
			}
			return nil
		}},
	} {
		out := &keeping{discard: discard{header: http.Header{}}}
		err := aheadWorld(t).ahead(t, dev, out)
		if _, ok := errors.AsType[*parallel.PanicError](err); !ok {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// Attack: a client hangs up at the moment at which its answer goes on from one batch to the next.
// Nothing waits for ever.
func TestSyncAheadOfAClientThatHangsUp(t *testing.T) {
	t.Parallel()
	for try := range 40 {
		ctx, hangUp := context.WithCancel(t.Context())
		dev := &aheadDevice{settle: func(n int) {
			if n == try%3 {
				hangUp()
			}
		}}
		w, ended := aheadWorld(t), make(chan struct{})
		go func() {
			defer close(ended)
			_ = w.aheadFor(ctx, t, dev, &keeping{discard: discard{header: http.Header{}}})
		}()
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Fatalf("try %d does not end", try)
		}
		hangUp()
	}
}

// What the batches take that are under way at the same time does not grow with the body.
func TestSyncAheadHeap(t *testing.T) {
	w := newSyncWorld(t, "", interceptors.SyncOptions{})
	grown := syncHeapOf(t, w, 100<<20, 500, func(look func()) (int64, error) {
		out := &discard{header: http.Header{}, look: look}
		err := w.ahead(t, &aheadDevice{forget: true}, out)
		return out.n, err
	})
	if grown > 6<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
}
