package proxy

import (
	"net/http"
	"sync/atomic"
	"testing"

	"e2ee-proxy/interceptors"
)

// A call of the local socket about an account that another process has goes there, as one with
// the device's own token; for whom it is is said by that token only. What every process knows
// is answered where it is asked.
func TestLocalCallGoesToTheOwner(t *testing.T) {
	t.Parallel()
	names, made := []string{"a", "b"}, 0
	var atA, atB atomic.Int64
	counts := []*atomic.Int64{&atA, &atB}
	a, _ := pair(t, func(o *Options) {
		name, count := names[made], counts[made]
		o.Devices = heldOnly{}
		for _, r := range controlRoutes() {
			o.Handlers[r.handler] = func(x *interceptors.Exchange) error {
				count.Add(1)
				x.Writer.Header().Set("X-Said-By", name)
				return sayWho(x)
			}
		}
		made++
	})
	got := a.local("GET", "/_e2ee_proxy/v1/status?user=@alice:hs&device=ALICE&wait=5", "")
	h := got.Header()
	if got.Code != http.StatusOK || h.Get("X-Said-By") != "b" || h.Get("X-User") != "@alice:hs" || h.Get("X-Device") != "ALICE" || h.Get("X-Query") != "wait=5" {
		t.Errorf("got %d %v %s", got.Code, h, got.Body)
	}
	if got := a.local("GET", "/_e2ee_proxy/v1/devices?user=@alice:hs", ""); got.Header().Get("X-Said-By") != "a" {
		t.Errorf("the devices are listed by %q", got.Header().Get("X-Said-By"))
	}
	if atA.Load() != 1 || atB.Load() != 1 {
		t.Errorf("%d and %d requests", atA.Load(), atB.Load())
	}
}
