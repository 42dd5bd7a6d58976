package gossip

import (
	"context"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/store"
)

// Incoming is what the to-device events of one sync say to an Exchange. It changes nothing
// but the step that it is added to: memory follows once that is stored.
type Incoming struct {
	x *Exchange
	// requests are the staged requests of the user's other devices; nil while unchanged.
	requests *waitingRequests
	secrets  []*olm.Received
	pushed   []*olm.Received
	taken    bool            // a pushed secret was taken
	forwards []*olm.Received // forwarded room keys, requested or not
	// forwardedBy are the devices that sent the requested keys.
	forwardedBy map[store.SessionRef]id.DeviceID
	answered    []answeredAsk
}

// Receive begins to take in the events of a sync. If there are any, the caller has called
// ReadRequests.
func (x *Exchange) Receive() *Incoming {
	return &Incoming{x: x, forwardedBy: make(map[store.SessionRef]id.DeviceID)}
}

// changeRequests returns the own copy of the requests, to be changed.
func (in *Incoming) changeRequests() *waitingRequests {
	if in.requests == nil {
		in.requests = in.x.requests.clone()
	}
	return in.requests
}

// Secret takes an m.secret.send that came over Olm.
func (in *Incoming) Secret(msg *olm.Received) { in.secrets = append(in.secrets, msg) }

// TypePush is a secret that was not asked for (MSC4385, under the name that clients use).
const TypePush = "io.element.msc4385.secret.push"

// Pushed takes a secret that came over Olm and was not asked for.
func (in *Incoming) Pushed(msg *olm.Received) { in.pushed = append(in.pushed, msg) }

// RoomKey takes an m.forwarded_room_key that came over Olm.
func (in *Incoming) RoomKey(msg *olm.Received) { in.forwards = append(in.forwards, msg) }

// Stage adds to a step what the events changed. keep stages a room key that answers a
// request of ours; the step has all others by now. The caller holds the device's lock.
func (in *Incoming) Stage(ctx context.Context, s *core.Step, keep func(store.InboundSession)) error {
	x := in.x
	if in.requests != nil {
		if err := in.requests.store(x.Device, s.Changes); err != nil {
			return err
		}
	}
	if err := in.keepForwards(ctx, s.Changes, keep); err != nil {
		return err
	}
	cancelled, err := x.CancelKeyRequests(ctx, s.Changes, in.forwardedBy)
	if err != nil {
		return err
	}
	if err := in.keepSecrets(ctx, s.Changes); err != nil {
		return err
	}
	s.After(func() {
		if in.requests != nil {
			x.requests = *in.requests
		}
		cancelled()
		in.dropAnsweredAsks()
		if len(x.requests.Secrets)+len(x.requests.Keys) > 0 {
			x.host.KickLocked()
		}
	})
	return nil
}
