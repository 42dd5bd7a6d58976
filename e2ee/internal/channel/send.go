package channel

import (
	"context"
	"encoding/json"
	"net/http"
	"runtime"
	"sync/atomic"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/parallel"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// claimBatch is how many one-time keys one request claims at most.
const claimBatch = 500

// checkBatch is how many of their signatures are checked together.
const checkBatch = 16

// ClaimFor claims one-time keys for devices without an Olm session. Devices without a key,
// or whose key they did not sign, are missing in the result.
func (o *Olm) ClaimFor(ctx context.Context, devices []*trustcache.Device) (map[store.DeviceRef]id.Curve25519, error) {
	need, err := o.strangers(ctx, devices)
	if err != nil {
		return nil, err
	}
	if len(need) < minPrepared || runtime.GOMAXPROCS(0) == 1 {
		return o.claim(ctx, need)
	}
	o.Mu.Lock()
	own := o.keys
	o.Mu.Unlock()
	var enough atomic.Bool
	var preparing parallel.Group
	preparing.Go(func() { own.Prepare(keysOf(need), enough.Load) })
	defer func() {
		enough.Store(true)
		preparing.Wait()
	}()
	return o.claim(ctx, need)
}

// minPrepared is for how many new sessions at least something is done while their keys are claimed.
const minPrepared = 8

// strangers returns those of the devices with which there is no session.
func (o *Olm) strangers(ctx context.Context, devices []*trustcache.Device) ([]*trustcache.Device, error) {
	o.Mu.Lock()
	defer o.Mu.Unlock()
	all, err := o.sessions(ctx)
	if err != nil {
		return nil, err
	}
	var unknown, out []*trustcache.Device
	for _, dev := range devices {
		if list, ok := all.rows[dev.Curve25519]; !ok {
			unknown = append(unknown, dev)
		} else if !olm.HasSession(list, dev) {
			out = append(out, dev)
		}
	}
	if len(unknown) == 0 {
		return out, nil
	}
	rows, err := o.rowsOf(ctx, keysOf(unknown))
	if err != nil {
		return nil, err
	}
	for _, dev := range unknown {
		if !olm.HasSession(rows[dev.Curve25519], dev) {
			out = append(out, dev)
		}
	}
	return out, nil
}

func keysOf(devices []*trustcache.Device) []id.Curve25519 {
	keys := make([]id.Curve25519, len(devices))
	for i, dev := range devices {
		keys[i] = dev.Curve25519
	}
	return keys
}

// claim claims a one-time key for each device and checks its signature with the
// device's key (requirement 3.10).
func (o *Olm) claim(ctx context.Context, devices []*trustcache.Device) (map[store.DeviceRef]id.Curve25519, error) {
	checked := make([]id.Curve25519, len(devices))
	var checks parallel.Group // of what came, while the next is asked for
	defer checks.Wait()
	for start := 0; start < len(devices); start += claimBatch {
		chunk := devices[start:min(start+claimBatch, len(devices))]
		wanted := make(map[id.UserID]map[id.DeviceID]string)
		for _, dev := range chunk {
			if wanted[dev.UserID] == nil {
				wanted[dev.UserID] = make(map[id.DeviceID]string)
			}
			wanted[dev.UserID][dev.DeviceID] = wire.AlgorithmSigned
		}
		var resp struct {
			Keys map[id.UserID]map[id.DeviceID]map[string]json.RawMessage `json:"one_time_keys"`
		}
		err := o.Call(ctx, wire.Request{
			Op: "claim one-time keys", Method: http.MethodPost,
			Path:   mautrix.ClientURLPath{"v3", "keys", "claim"},
			Body:   map[string]any{"one_time_keys": wanted, "timeout": 10000},
			Result: &resp, Large: true,
		})
		if err != nil {
			return nil, err
		}
		into := checked[start : start+len(chunk)]
		checks.Go(func() {
			parallel.Each((len(chunk)+checkBatch-1)/checkBatch, func(n int) {
				from, to := n*checkBatch, min((n+1)*checkBatch, len(chunk))
				check(chunk[from:to], resp.Keys, into[from:to])
			})
		})
	}
	checks.Wait()
	claimed := make(map[store.DeviceRef]id.Curve25519, len(devices))
	for i, dev := range devices {
		if checked[i] != "" {
			claimed[store.DeviceRef{UserID: dev.UserID, DeviceID: dev.DeviceID}] = checked[i]
		}
	}
	return claimed, nil
}

// check finds the keys of devices among what was answered.
func check(devices []*trustcache.Device, answer map[id.UserID]map[id.DeviceID]map[string]json.RawMessage, into []id.Curve25519) {
	var all []olm.Claimed
	var of []int
	for i, dev := range devices {
		for name, raw := range answer[dev.UserID][dev.DeviceID] {
			all, of = append(all, olm.Claimed{Name: name, Raw: raw, Of: dev}), append(of, i)
		}
	}
	for n, key := range olm.CheckOneTimeKeys(all) {
		if key != "" {
			into[of[n]] = key
		}
	}
}

// EncryptAll encrypts one content for many devices: with the session that received last,
// or a new one made with a claimed key. without are the devices that have neither.
func (o *Olm) EncryptAll(ctx context.Context, s *core.Step, eventType string, content json.RawMessage, devices []*trustcache.Device, claimed map[store.DeviceRef]id.Curve25519) (sealed []olm.Message, without []*trustcache.Device, err error) {
	sessions, err := o.LoadSessions(ctx, keysOf(devices))
	if err != nil {
		return nil, nil, err
	}
	sealed, without = o.seal(s, sessions, eventType, content, devices, claimed)
	return sealed, without, o.StageSessions(ctx, s, sessions)
}

// EncryptRequests is EncryptAll for as many devices as a room may have: requests to them are being
// made when it returns. [Queued.Wait] must be called if it returns any, also beside an error.
func (o *Olm) EncryptRequests(ctx context.Context, s *core.Step, eventType string, content json.RawMessage, devices []*trustcache.Device, claimed map[store.DeviceRef]id.Curve25519) (sealed []olm.Message, queued *Queued, without []*trustcache.Device, err error) {
	sessions, err := o.LoadSessions(ctx, keysOf(devices))
	if err != nil {
		return nil, nil, nil, err
	}
	sealed, without = o.seal(s, sessions, eventType, content, devices, claimed)
	queued = queue(olm.Pack("m.room.encrypted", sealed, o.Env.Now()))
	return sealed, queued, without, o.StageSessions(ctx, s, sessions)
}

func (o *Olm) seal(s *core.Step, sessions *olm.Sessions, eventType string, content json.RawMessage, devices []*trustcache.Device, claimed map[store.DeviceRef]id.Curve25519) (sealed []olm.Message, without []*trustcache.Device) {
	sealed, renewed, without := sessions.SealAll(o.keys, o.newFrame(eventType, content), devices, claimed, o.Env.Now())
	o.keys.DropPrepared()
	for _, ref := range renewed {
		s.After(func() { delete(o.noKeys, ref) })
	}
	return sealed, without
}

// newFrame prepares the plaintexts of one content. They carry our device keys with
// all signatures (requirement 6.10), so that recipients can judge us at once.
func (o *Olm) newFrame(eventType string, content json.RawMessage) *olm.Frame {
	return olm.NewFrame(o.keys, o.Account.User, o.host.ShownKeys(), eventType, content)
}
