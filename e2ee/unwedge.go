package e2ee

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

const (
	// unwedgeEvery is the least time between new Olm sessions to one device (requirement 6.12).
	unwedgeEvery = time.Hour
	// maxWedged bounds the senders of unreadable messages, and those who say that they have
	// no session with us, that are remembered: anybody can send both (attack N5).
	maxWedged = 64
)

// unwedge makes new Olm sessions with devices whose messages no session could read, or
// who told us that they have none with us, and says so with an m.dummy (requirements 6.12, 10.3).
// Unlike a room key, an m.dummy carries nothing; still only confirmed devices get one.
func (d *Device) unwedge(ctx context.Context) error {
	d.mu.Lock()
	wedged := d.wedged
	d.wedged = nil
	d.mu.Unlock()
	if len(wedged) == 0 {
		return nil
	}
	devices, err := d.unwedgeable(ctx, wedged)
	if err != nil || len(devices) == 0 {
		return err
	}
	claimed, err := d.claim(ctx, devices)
	if err != nil {
		return err
	}
	devices = slices.DeleteFunc(devices, func(dev *trustcache.Device) bool {
		return claimed[store.DeviceRef{UserID: dev.UserID, DeviceID: dev.DeviceID}] == ""
	})
	if err := d.sendDummies(ctx, devices, claimed); err != nil {
		return err
	}
	return d.flushOutbox(ctx)
}

// unwedgeable gives the known devices behind the notes that may get a new session now.
func (d *Device) unwedgeable(ctx context.Context, wedged []wedgedDevice) ([]*trustcache.Device, error) {
	var users []id.UserID
	for _, w := range wedged {
		users = append(users, w.user)
	}
	slices.Sort(users)
	known, err := d.acct.tracker.Cached(ctx, slices.Compact(users))
	if err != nil {
		return nil, fmt.Errorf("look up devices to unwedge: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var devices []*trustcache.Device
	consider := func(user *trustcache.User, dev *trustcache.Device) {
		if dev == nil || !dev.Usable() {
			return
		}
		in := trustcache.ShareInput{User: user, Device: dev, SenderUser: d.acct.user, SenderDevice: d.id, Mode: trustcache.ModeEnforce}
		if trustcache.Share(in).Outcome != trustcache.ShareGive {
			return
		}
		ref := store.DeviceRef{UserID: dev.UserID, DeviceID: dev.DeviceID}
		if now := d.eng.now(); now.Sub(d.unwedged[ref]) >= unwedgeEvery {
			if d.unwedged == nil || len(d.unwedged) >= maxNoKeys {
				d.unwedged = make(map[store.DeviceRef]time.Time)
			}
			d.unwedged[ref] = now
			devices = append(devices, dev)
		}
	}
	for _, w := range wedged {
		dev := known[w.user].Device(w.device)
		if dev == nil {
			dev = known[w.user].DeviceByCurve25519(w.key)
		}
		consider(known[w.user], dev)
	}
	return devices, nil
}

// sendDummies replaces the sessions with the devices and stores the messages that say so.
func (d *Device) sendDummies(ctx context.Context, devices []*trustcache.Device, claimed map[store.DeviceRef]id.Curve25519) error {
	if len(devices) == 0 {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	keys := make([]id.Curve25519, len(devices))
	for i, dev := range devices {
		keys[i] = dev.Curve25519
	}
	sessions, err := d.loadOlmSessions(ctx, keys)
	if err != nil {
		return err
	}
	frame := d.newEnvelopeFrame("m.dummy", json.RawMessage(`{}`))
	var sealed []message
	for _, dev := range devices {
		made, err := d.olm.newOutbound(dev.Curve25519, claimed[store.DeviceRef{UserID: dev.UserID, DeviceID: dev.DeviceID}])
		if err != nil {
			continue // a bad key of theirs; they will write again
		}
		content, err := frame.seal(made, dev)
		if err != nil {
			return err
		}
		sessions.add(dev.Curve25519, made, d.eng.now())
		sealed = append(sealed, message{dev, content})
	}
	ch := &store.Changes{Outbox: outboxItems("m.room.encrypted", sealed, d.eng.now())}
	sessions.collect(ch)
	if err := d.save(ctx, ch); err != nil {
		return fmt.Errorf("store new Olm sessions: %w", err)
	}
	d.noteBegun(keys)
	d.outboxPending = true
	return nil
}
