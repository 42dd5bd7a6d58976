package verification

import (
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"
)

// The process ends while verifications are under way. The next one says so to the person, and to
// the other side, once; a request that nobody has answered yet waits on and can be accepted; what
// was over is not mentioned.
func TestInterruptedVerifications(t *testing.T) {
	t.Parallel()
	w := twoUsers(t)
	h := &fakeHost{w: w}
	x := flowsWith(t, w, h)
	ctx := t.Context()
	asked, err := x.Request(ctx, bob, "", func(Known) ([]id.DeviceID, error) { return []id.DeviceID{"BOB"}, nil })
	if err != nil {
		t.Fatal(err)
	}
	over, err := x.Request(ctx, bob, "", func(Known) ([]id.DeviceID, error) { return []id.DeviceID{"BOB"}, nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Cancel(ctx, over.ID); err != nil {
		t.Fatal(err)
	}
	w.asks(x, bob, "BOB", "theirs")
	x.Stop()
	x.tend(ctx) // something was still under way: it must not store that nothing is

	h.sent = nil
	x = flowsWith(t, w, h)
	w.now = w.now.Add(time.Minute)
	v, err := x.Look(ctx, asked.ID)
	if err != nil || v.State != Cancelled || v.CancelCode != codeRestarted || !strings.Contains(v.Message, "Start again") {
		t.Errorf("what was asked for: %+v, %v", v, err)
	}
	if _, err := x.Look(ctx, over.ID); err == nil {
		t.Error("what was over comes back")
	}
	if len(h.interrupted) != 1 || h.interrupted[0].ID != asked.ID {
		t.Errorf("the person is told of %+v", h.interrupted)
	}
	if len(h.sent) != 1 || h.sent[0].Type != Prefix+typeCancel || !strings.Contains(string(h.sent[0].Content), codeRestarted) {
		t.Errorf("the other side is told %+v", h.sent)
	}
	all := x.List(ctx)
	for _, one := range all {
		if one.Incoming && (one.State != Requested || one.UserID != bob || one.DeviceID != "BOB") {
			t.Errorf("the request is %+v", one)
		}
	}
	if len(all) != 2 {
		t.Errorf("%d verifications", len(all))
	}
	theirs := flowID("", bob, "theirs")
	if v, err := x.Decided(ctx, theirs, Flow.Accept); err != nil || v.State != Ready || !v.CanEmoji {
		t.Errorf("accepted: %+v, %v", v, err)
	}
	x.Stop()
	x = flowsWith(t, w, h)
	if v, err := x.Look(ctx, theirs); err != nil || v.CancelCode != codeRestarted {
		t.Errorf("the one that was accepted: %+v, %v", v, err)
	}
	x.Stop()
	if x = flowsWith(t, w, h); len(x.List(ctx)) != 0 || h.kept != nil || len(h.interrupted) != 2 {
		t.Errorf("a third process says it again: %+v", h.interrupted)
	}
}

// A request that has waited too long does not come back, nor one from a damaged row.
func TestOldRequestsDoNotComeBack(t *testing.T) {
	t.Parallel()
	w := twoUsers(t)
	h := &fakeHost{w: w}
	x := flowsWith(t, w, h)
	w.asks(x, bob, "BOB", "theirs")
	x.Stop()
	w.now = w.now.Add(lifetime)
	if all := flowsWith(t, w, h).List(t.Context()); len(all) != 0 {
		t.Errorf("it is %+v", all)
	}
	h.kept = []byte(`{`)
	if all := flowsWith(t, w, h).List(t.Context()); len(all) != 0 {
		t.Errorf("from nothing: %+v", all)
	}
}
