package gossip

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"maunium.net/go/mautrix/crypto/backup"
	"maunium.net/go/mautrix/crypto/goolm/pk"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Our m.secret.request to the user's other devices. Only devices that the identity has
// confirmed are asked and believed, and only if we verified the identity: a homeserver
// could make up an identity with a confirmed device, and send us a backup key that it knows
// (attacks A13, A14).
const (
	// answerWithin is how long an answer is awaited; then the request is repeated, if still
	// needed.
	answerWithin = 24 * time.Hour
	// maxSecret bounds a received secret, in bytes of base64.
	maxSecret = 1024
)

// WantSecrets requests the missing secrets from the other devices, if the identity is one
// that we verified.
func (x *Exchange) WantSecrets(ctx context.Context, own *trustcache.User) error {
	if !own.Verified || !x.host.IsSigned() {
		return nil
	}
	missing, before, err := x.lookForSecrets(ctx, own)
	if err != nil || len(missing) == 0 {
		return err
	}
	others := x.confirmedOthers(own)
	if len(others) == 0 {
		return nil
	}
	x.Mu.Lock()
	defer x.Mu.Unlock()
	if x.came != before {
		return nil // the identity is checked again, see SecretsCame
	}
	if err := x.loadAsks(ctx); err != nil {
		return err
	}
	now := x.Env.Now()
	ch := &store.Changes{}
	asks := make([]*secretAsk, 0, len(missing))
	for _, name := range missing {
		if ask := x.secretAsks[name]; ask != nil && now.Before(ask.until) &&
			!slices.ContainsFunc(others, func(dev *trustcache.Device) bool { return !ask.to[dev.DeviceID] }) {
			continue // all other devices were asked
		}
		if came, err := x.secretCame(ctx, name); err != nil {
			return err
		} else if came {
			continue // it arrived meanwhile
		}
		ask, err := x.askFor(name, others, ch)
		if err != nil {
			return err
		}
		asks = append(asks, ask)
	}
	if len(asks) == 0 {
		return nil
	}
	if err := x.Save(ctx, ch); err != nil {
		return fmt.Errorf("store requests for secrets: %w", err)
	}
	for _, ask := range asks {
		x.secretAsks[ask.name] = ask
	}
	x.host.OutboxFilled()
	x.host.KickLocked()
	return nil
}

// lookForSecrets returns the secrets that are not here, and how many had been received
// before it looked. A backup key that is being compared with the backup is not missing.
func (x *Exchange) lookForSecrets(ctx context.Context, own *trustcache.User) (missing []string, before int, err error) {
	x.Mu.Lock()
	before = x.came
	compared, err := x.secretCame(ctx, identity.SecretBackup)
	x.Mu.Unlock()
	if err != nil {
		return nil, 0, err
	}
	missing, err = x.host.MissingSecrets(ctx, own)
	missing = slices.DeleteFunc(missing, func(name string) bool { return compared && name == identity.SecretBackup })
	return missing, before, err
}

// askFor makes a request for a secret to other devices, and adds it to ch.
func (x *Exchange) askFor(name string, others []*trustcache.Device, ch *store.Changes) (*secretAsk, error) {
	now := x.Env.Now()
	ask := &secretAsk{name: name, id: rand.Text(), to: make(map[id.DeviceID]bool, len(others)), until: now.Add(answerWithin)}
	content := strictjson.Object{
		{Name: "action", Value: strictjson.Quote("request")}, {Name: "name", Value: strictjson.Quote(name)}, {Name: "request_id", Value: strictjson.Quote(ask.id)},
		{Name: "requesting_device_id", Value: strictjson.Quote(x.ID.String())},
	}.Encode()
	messages := make([]olm.Message, len(others))
	for i, dev := range others {
		ask.to[dev.DeviceID] = true
		messages[i] = olm.Message{To: dev, Content: content}
	}
	ch.Outbox = append(ch.Outbox, olm.OutboxItems("m.secret.request", messages, now)...)
	row, err := ask.stored(x.Ed25519, now)
	if err != nil {
		return nil, err
	}
	ch.Secrets = append(ch.Secrets, row)
	return ask, nil
}

// secretCame reports whether another device has answered. The caller holds the device's
// lock, under which answers are stored.
func (x *Exchange) secretCame(ctx context.Context, name string) (bool, error) {
	_, err := x.Env.Store.Secret(ctx, x.Account.Row, receivedAs(name))
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for a received secret: %w", err)
	}
	return true, nil
}

// confirmedOthers returns the user's other devices that the identity has confirmed.
func (x *Exchange) confirmedOthers(own *trustcache.User) []*trustcache.Device {
	var out []*trustcache.Device
	for i := range own.Devices {
		dev := &own.Devices[i]
		if dev.DeviceID != x.ID && trustcache.MayHoldSecrets(own, dev) {
			out = append(out, dev)
		}
	}
	return out
}

// receivedAs returns the name under which a received secret is stored: only the homeserver
// can tell whether a key belongs to the backup.
func receivedAs(name string) string {
	if name == identity.SecretBackup {
		return identity.SecretBackupReceived
	}
	return name
}

// handleSecret handles an m.secret.send that came over Olm: it must answer a request of
// ours, and come from a confirmed device of the user that was asked (requirement 15.2). own
// is the own user as known.
func (in *Incoming) handleSecret(msg *olm.Received, own *trustcache.User, ch *store.Changes) {
	var sent struct {
		RequestID string `json:"request_id"`
		Secret    string `json:"secret"`
	}
	x := in.x
	if strictjson.Unmarshal(msg.Content, &sent) != nil || sent.RequestID == "" || len(sent.Secret) > maxSecret {
		x.countRefusedSecret()
		return
	}
	ask := x.askOf(sent.RequestID)
	if ask == nil || !own.Known() || !own.Verified || msg.Sender != own.UserID {
		x.countRefusedSecret() // unsolicited, late, or not ours (requirement 15.3)
		return
	}
	dev := own.DeviceByCurve25519(msg.SenderKey)
	if !trustcache.MayHoldSecrets(own, dev) || dev.Ed25519 != msg.Keys.Ed25519 || !ask.to[dev.DeviceID] {
		x.countRefusedSecret()
		return
	}
	value, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(sent.Secret, "="))
	if err != nil || !plausibleSecret(ask.name, value, own) {
		x.countRefusedSecret()
		return
	}
	ch.Secrets = append(ch.Secrets, store.Secret{Name: receivedAs(ask.name), Value: secret.Bytes(value), CreatedAt: x.Env.Now()})
	in.answered = append(in.answered, answeredAsk{ask, dev.DeviceID})
	x.Env.Counts.Secrets.WithLabelValues("received").Inc()
}

func (x *Exchange) countRefusedSecret() {
	x.Env.Counts.Secrets.WithLabelValues("refused").Inc()
}

// plausibleSecret reports whether a secret has the right form, and a seed the published
// public key.
func plausibleSecret(name string, value []byte, own *trustcache.User) bool {
	if name == identity.SecretBackup {
		_, err := backup.MegolmBackupKeyFromBytes(value)
		return err == nil
	}
	key, err := pk.NewSigningFromSeed(value)
	return err == nil && identity.PublishedKey(own, name) != "" && key.PublicKey() == identity.PublishedKey(own, name)
}

// answeredAsk is a request that a device answered.
type answeredAsk struct {
	ask *secretAsk
	by  id.DeviceID
}

// cancelSecretAsks cancels an answered request at the other devices that were asked. The
// messages are stored together with the answer.
func (in *Incoming) cancelSecretAsks(own *trustcache.User, ch *store.Changes) {
	x := in.x
	for _, a := range in.answered {
		content := strictjson.Object{
			{Name: "action", Value: strictjson.Quote("request_cancellation")}, {Name: "request_id", Value: strictjson.Quote(a.ask.id)},
			{Name: "requesting_device_id", Value: strictjson.Quote(x.ID.String())},
		}.Encode()
		var messages []olm.Message
		for i := range own.Devices {
			if dev := &own.Devices[i]; a.ask.to[dev.DeviceID] && dev.DeviceID != a.by {
				messages = append(messages, olm.Message{To: dev, Content: content})
			}
		}
		ch.Outbox = append(ch.Outbox, olm.OutboxItems("m.secret.request", messages, x.Env.Now())...)
		ch.DeleteSecrets = append(ch.DeleteSecrets, identity.AskedName(x.Ed25519, a.ask.name))
	}
}

// keepSecrets adds the secrets that answer our requests to ch.
func (in *Incoming) keepSecrets(ctx context.Context, ch *store.Changes) error {
	if len(in.secrets)+len(in.pushed) == 0 {
		return nil
	}
	own, err := in.x.Account.Tracker.Own(ctx)
	if err != nil {
		return fmt.Errorf("look up who sent a secret: %w", err)
	}
	if err := in.x.loadAsks(ctx); err != nil {
		return err
	}
	for _, msg := range in.secrets {
		in.handleSecret(msg, own, ch)
	}
	for _, msg := range in.pushed {
		in.handlePushed(msg, own, ch)
	}
	in.cancelSecretAsks(own, ch)
	return nil
}

// handlePushed handles a secret that was not asked for. Only the backup's key is taken, and only
// from a confirmed device of the user: an owner who resets the backup in another client would
// otherwise strand ours unseen. Whether it belongs to the backup is decided when the backup was
// looked at, as with one that was asked for; until then nothing uses it.
func (in *Incoming) handlePushed(msg *olm.Received, own *trustcache.User, ch *store.Changes) {
	var sent struct {
		Name   string `json:"name"`
		Secret string `json:"secret"`
	}
	x := in.x
	if strictjson.Unmarshal(msg.Content, &sent) != nil || sent.Name != identity.SecretBackup || len(sent.Secret) > maxSecret ||
		!own.Known() || msg.Sender != own.UserID {
		x.countRefusedSecret()
		return
	}
	dev := own.DeviceByCurve25519(msg.SenderKey)
	value, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(sent.Secret, "="))
	if !trustcache.MayHoldSecrets(own, dev) || dev.Ed25519 != msg.Keys.Ed25519 || err != nil || !plausibleSecret(sent.Name, value, own) {
		x.countRefusedSecret()
		return
	}
	ch.Secrets = append(ch.Secrets, store.Secret{Name: receivedAs(sent.Name), Value: secret.Bytes(value), CreatedAt: x.Env.Now()})
	in.taken = true
	x.Env.Counts.Secrets.WithLabelValues("received").Inc()
}

// dropAnsweredAsks removes the answered requests from memory.
func (in *Incoming) dropAnsweredAsks() {
	x := in.x
	for _, a := range in.answered {
		if x.secretAsks[a.ask.name] == a.ask {
			delete(x.secretAsks, a.ask.name)
		}
		x.host.OutboxFilled()
	}
	if len(in.answered) > 0 || in.taken {
		x.came++
		x.host.SecretsCame()
	}
}
