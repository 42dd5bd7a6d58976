package devicekeys

import (
	"testing"
	"testing/synctest"
	"time"

	"e2ee-proxy/e2ee/internal/core"
)

// unhosted is a device of which nothing is asked but maintenance.
type unhosted struct{ Host }

func (unhosted) KickLocked() {}

// A first sync of the client does not count as waiting, however long it takes: once it is
// over, the time until the keys are published begins anew. What needs keys waits for neither.
func TestPublicationWaitsForTheFirstSync(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		do   func(p *Publication, pass func(time.Duration))
		then time.Duration // until the keys are published
	}{
		"no sync": {func(*Publication, func(time.Duration)) {}, publishAtLast},
		"a first sync": {func(p *Publication, pass func(time.Duration)) {
			p.FirstSyncBegins()
			pass(time.Second)
			p.FirstSyncEnds()
		}, publishAtLast - time.Second},
		"a first sync that lasts": {func(p *Publication, pass func(time.Duration)) {
			p.FirstSyncBegins()
			pass(time.Hour)
			p.FirstSyncEnds()
		}, publishAtLast},
		"a second sync": {func(p *Publication, _ func(time.Duration)) { p.NextSyncBegins() }, publishAfterSync},
		"two first syncs": {func(p *Publication, pass func(time.Duration)) {
			p.FirstSyncBegins()
			p.FirstSyncBegins()
			pass(time.Hour)
			p.FirstSyncEnds()
			pass(time.Hour)
			p.FirstSyncEnds()
		}, publishAtLast},
		"a send in a first sync": {func(p *Publication, pass func(time.Duration)) {
			p.FirstSyncBegins()
			pass(time.Hour)
			p.PublishWithin(0)
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := NewPublication(&core.Device{Env: &core.Env{Now: time.Now}, Self: core.Self{Mode: core.ModeProxied}}, unhosted{})
				p.Seen()
				tc.do(&p, time.Sleep)
				over := time.Now()
				if err := p.Await(t.Context()); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(over); took != tc.then || !p.Allowed() {
					t.Errorf("published after %s, not %s", took, tc.then)
				}
			})
		})
	}
}
