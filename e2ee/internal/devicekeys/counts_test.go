package devicekeys

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"e2ee-proxy/e2ee/internal/channel"
	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/wire"
)

// supplyAt returns what a device knows of its published keys at a time that the test sets.
func supplyAt(now *time.Time) *Supply {
	d := &core.Device{Env: &core.Env{OneTimeKeys: 50, Now: func() time.Time { return *now }}}
	d.Record.Row.KeysUploaded = true
	o := channel.New(d, nil, nil)
	p := NewPublication(d, nil)
	k := NewSupply(d, &o, &p)
	return &k
}

// What a sync says of the keys on the homeserver (requirements 3.3, 3.4): few are made more, a
// sync without counts has them asked for, and one that is older than an upload is not believed.
func TestCountsOfASync(t *testing.T) {
	t.Parallel()
	signed := func(n int) map[string]int { return map[string]int{wire.AlgorithmSigned: n} }
	for _, tc := range []struct {
		name                      string
		counts                    map[string]int
		unused                    []string
		overtaken                 bool
		wanted, uncounted, newKey bool
	}{
		{"enough", signed(50), []string{wire.AlgorithmSigned}, false, false, false, false},
		{"few", signed(1), nil, false, true, false, false},
		{"none of this kind", map[string]int{"curve25519": 50}, nil, false, true, false, false},
		{"no counts", nil, nil, false, false, true, false},
		{"the fallback key is used", signed(50), []string{}, false, false, false, true},
		{"from before an upload", signed(0), []string{}, true, false, true, false},
	} {
		var now time.Time
		k := supplyAt(&now)
		k.UpdateCounts(tc.counts, tc.unused, tc.overtaken)
		if k.wanted != tc.wanted || k.uncounted != tc.uncounted || k.newFallback != tc.newKey {
			t.Errorf("%s: wanted %v, uncounted %v, fallback %v", tc.name, k.wanted, k.uncounted, k.newFallback)
		}
		if k.Due() != (tc.wanted || tc.uncounted || tc.newKey) {
			t.Errorf("%s: due %v", tc.name, k.Due())
		}
	}
}

// A homeserver that refuses the keys is asked again after a pause, and the user is told from the
// second refusal on. What is no refusal of the keys does not count, and an accepted upload ends it.
func TestRefusalsOfKeys(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	p := supplyAt(&now).publication
	for _, status := range []int{http.StatusUnauthorized, http.StatusTooManyRequests, http.StatusBadGateway} {
		for range 3 {
			p.recordUpload(&wire.UpstreamError{Status: status})
		}
	}
	p.recordUpload(errors.New("no answer"))
	if p.uploadStands() != nil || p.Refusal() != nil {
		t.Error("what is no refusal counts")
	}
	bad := &wire.UpstreamError{Status: http.StatusBadRequest}
	if p.recordUpload(bad); p.uploadStands() != nil || p.Refusal() != nil {
		t.Error("told after the first refusal")
	}
	if p.recordUpload(bad); !errors.Is(p.uploadStands(), core.ErrKeysRefused) || p.Refusal() != bad {
		t.Error("not told after the second refusal")
	}
	now = now.Add(core.UpkeepPauses().Last + time.Second)
	if p.uploadStands() != nil || p.Refusal() == nil {
		t.Error("it is not tried again, or the user is not told meanwhile")
	}
	if p.recordUpload(nil); p.Refusal() != nil {
		t.Error("told after the keys were accepted")
	}
}
