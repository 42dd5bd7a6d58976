package core_test

import (
	"testing"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/internal/parallel"
)

// A device whose memory is behind what is stored encrypts with keys that were used already. It is
// loaded anew if an error in the program left it so.
func TestStepThatIsAppliedInPart(t *testing.T) {
	t.Parallel()
	var whole, part core.Device
	for d, then := range map[*core.Device]func(){&whole: func() {}, &part: func() { panic("an error in the program") }} {
		s := d.Begin()
		s.After(then)
		_ = parallel.Try(func() error { s.ApplyToMemory(); return nil })
	}
	if whole.MustReload.Load() || !part.MustReload.Load() {
		t.Errorf("loaded anew: after all of it %v, after a part %v", whole.MustReload.Load(), part.MustReload.Load())
	}
}
