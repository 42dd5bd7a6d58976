package e2ee

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
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
	// askFor is how long an answer is awaited; then the request is repeated, if still
	// needed.
	askFor = 24 * time.Hour
	// maxSecret bounds a received secret, in bytes of base64.
	maxSecret = 1024
	// secretReceived is the prefix of the stored name of a secret that was received and not
	// checked yet.
	secretReceived = "received:"
)

// wantSecrets requests the missing secrets from the other devices, if the identity is one
// that we verified.
func (g *gossip) wantSecrets(ctx context.Context, own *trustcache.User) error {
	if !own.Verified || g.host.ownNow() != ownSigned {
		return nil
	}
	missing, err := g.missingSecrets(ctx, own)
	if err != nil || len(missing) == 0 {
		return err
	}
	others := g.confirmedOthers(own)
	if len(others) == 0 {
		return nil
	}
	g.Mu.Lock()
	defer g.Mu.Unlock()
	if err := g.loadAsks(ctx); err != nil {
		return err
	}
	now := g.Env.Now()
	ch := &store.Changes{}
	asks := make([]*secretAsk, 0, len(missing))
	for _, name := range missing {
		if ask := g.secretAsks[name]; ask != nil && now.Before(ask.until) &&
			!slices.ContainsFunc(others, func(dev *trustcache.Device) bool { return !ask.to[dev.DeviceID] }) {
			continue // all other devices were asked
		}
		if came, err := g.secretCame(ctx, name); err != nil {
			return err
		} else if came {
			continue // it arrived meanwhile
		}
		ask, err := g.askFor(name, others, ch)
		if err != nil {
			return err
		}
		asks = append(asks, ask)
	}
	if len(asks) == 0 {
		return nil
	}
	if err := g.Save(ctx, ch); err != nil {
		return fmt.Errorf("store requests for secrets: %w", err)
	}
	for _, ask := range asks {
		g.secretAsks[ask.name] = ask
	}
	g.host.outboxFilled()
	g.host.kickLocked()
	return nil
}

// askFor makes a request for a secret to other devices, and adds it to ch.
func (g *gossip) askFor(name string, others []*trustcache.Device, ch *store.Changes) (*secretAsk, error) {
	now := g.Env.Now()
	ask := &secretAsk{name: name, id: rand.Text(), to: make(map[id.DeviceID]bool, len(others)), until: now.Add(askFor)}
	content := strictjson.Object{
		{Name: "action", Value: strictjson.Quote("request")}, {Name: "name", Value: strictjson.Quote(name)}, {Name: "request_id", Value: strictjson.Quote(ask.id)},
		{Name: "requesting_device_id", Value: strictjson.Quote(g.ID.String())},
	}.Encode()
	messages := make([]olm.Message, len(others))
	for i, dev := range others {
		ask.to[dev.DeviceID] = true
		messages[i] = olm.Message{To: dev, Content: content}
	}
	ch.Outbox = append(ch.Outbox, olm.OutboxItems("m.secret.request", messages, now)...)
	row, err := ask.stored(g.Ed25519, now)
	if err != nil {
		return nil, err
	}
	ch.Secrets = append(ch.Secrets, row)
	return ask, nil
}

// secretCame reports whether another device has answered. The caller holds mu, under which
// answers are stored.
func (g *gossip) secretCame(ctx context.Context, name string) (bool, error) {
	if name == identity.SecretBackup {
		name = secretReceived + name
	}
	_, err := g.Env.Store.Secret(ctx, g.acct.Row, name)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for a received secret: %w", err)
	}
	return true, nil
}

// confirmedOthers returns the user's other devices that the identity has confirmed.
func (g *gossip) confirmedOthers(own *trustcache.User) []*trustcache.Device {
	var out []*trustcache.Device
	for i := range own.Devices {
		dev := &own.Devices[i]
		if dev.DeviceID != g.ID && trustcache.MayHoldSecrets(own, dev) {
			out = append(out, dev)
		}
	}
	return out
}

// missingSecrets returns the names of the secrets that are not here. The backup key is
// missing when there is a backup and no stored key belongs to it.
func (g *gossip) missingSecrets(ctx context.Context, own *trustcache.User) ([]string, error) {
	parts, err := g.acct.loadParts(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for name, slot := range parts.Slots() {
		if *slot == nil && identity.PublishedKey(own, name) != "" {
			out = append(out, name)
		}
	}
	key, _, err := g.acct.loadBackupKey(ctx)
	if err != nil {
		return nil, err
	}
	current, err := g.host.currentBackup(ctx)
	if err != nil {
		return nil, err
	}
	if current.PublicKey() != nil && !current.Trusts(key) {
		out = append(out, identity.SecretBackup)
	}
	slices.Sort(out)
	return out, nil
}

// handleSecret handles an m.secret.send that came over Olm: it must answer a request of
// ours, and come from a confirmed device of the user that was asked (requirement 15.2). own
// is the own user as known. The caller holds mu.
func (b *toDeviceStep) handleSecret(msg *olm.Received, own *trustcache.User) {
	var sent struct {
		RequestID string `json:"request_id"`
		Secret    string `json:"secret"`
	}
	if strictjson.Unmarshal(msg.Content, &sent) != nil || sent.RequestID == "" || len(sent.Secret) > maxSecret {
		b.countRefusedSecret()
		return
	}
	ask := b.d.gossip.askOf(sent.RequestID)
	if ask == nil || !own.Known() || !own.Verified || msg.Sender != own.UserID {
		b.countRefusedSecret() // unsolicited, late, or not ours (requirement 15.3)
		return
	}
	dev := own.DeviceByCurve25519(msg.SenderKey)
	if !trustcache.MayHoldSecrets(own, dev) || dev.Ed25519 != msg.Keys.Ed25519 || !ask.to[dev.DeviceID] {
		b.countRefusedSecret()
		return
	}
	value, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(sent.Secret, "="))
	if err != nil || !plausibleSecret(ask.name, value, own) {
		b.countRefusedSecret()
		return
	}
	name := ask.name
	if name == identity.SecretBackup { // only the homeserver can tell whether it belongs to the backup
		name = secretReceived + name
	}
	b.ch.Secrets = append(b.ch.Secrets, store.Secret{Name: name, Value: secret.Bytes(value), CreatedAt: b.d.core.Env.Now()})
	b.answered = append(b.answered, answeredAsk{ask, dev.DeviceID})
	b.d.core.Env.Counts.Secrets.WithLabelValues("received").Inc()
}

func (b *toDeviceStep) countRefusedSecret() {
	b.d.core.Env.Counts.Secrets.WithLabelValues("refused").Inc()
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
// messages are stored together with the answer. The caller holds mu.
func (b *toDeviceStep) cancelSecretAsks(own *trustcache.User) {
	for _, a := range b.answered {
		content := strictjson.Object{
			{Name: "action", Value: strictjson.Quote("request_cancellation")}, {Name: "request_id", Value: strictjson.Quote(a.ask.id)},
			{Name: "requesting_device_id", Value: strictjson.Quote(b.d.core.ID.String())},
		}.Encode()
		var messages []olm.Message
		for i := range own.Devices {
			if dev := &own.Devices[i]; a.ask.to[dev.DeviceID] && dev.DeviceID != a.by {
				messages = append(messages, olm.Message{To: dev, Content: content})
			}
		}
		b.ch.Outbox = append(b.ch.Outbox, olm.OutboxItems("m.secret.request", messages, b.d.core.Env.Now())...)
		b.ch.DeleteSecrets = append(b.ch.DeleteSecrets, identity.AskedName(b.d.core.Ed25519, a.ask.name))
	}
}

// keepSecrets handles the secrets of the step. The caller holds mu.
func (b *toDeviceStep) keepSecrets(ctx context.Context) error {
	if len(b.secrets) == 0 {
		return nil
	}
	own, err := b.d.acct.Tracker.Own(ctx)
	if err != nil {
		return fmt.Errorf("look up who sent a secret: %w", err)
	}
	if err := b.d.gossip.loadAsks(ctx); err != nil {
		return err
	}
	for _, msg := range b.secrets {
		b.handleSecret(msg, own)
	}
	b.cancelSecretAsks(own)
	return nil
}

// dropAnsweredAsks removes the answered requests from memory, once that is stored. The
// caller holds mu.
func (b *toDeviceStep) dropAnsweredAsks() {
	for _, a := range b.answered {
		if b.d.gossip.secretAsks[a.ask.name] == a.ask {
			delete(b.d.gossip.secretAsks, a.ask.name)
		}
		b.d.olmState.outboxFilled()
	}
	if len(b.answered) > 0 {
		b.d.ownIdentity.recheckIdentityLocked()
	}
}

// checkReceived decides about a backup key that another device sent: it is used if it
// belongs to the newest backup.
func (g *gossip) checkReceived(ctx context.Context) error {
	const name = secretReceived + identity.SecretBackup
	stored, err := g.Env.Store.Secret(ctx, g.acct.Row, name)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("load a received secret: %w", err)
	}
	current, err := g.host.currentBackup(ctx)
	if err != nil {
		return err
	}
	ch := &store.Changes{DeleteSecrets: []string{name}}
	if key, err := backup.MegolmBackupKeyFromBytes(stored.Value.Reveal()); err == nil && current.Trusts(key) {
		meta, err := json.Marshal(backupKeyMeta{current.Version})
		if err != nil {
			return fmt.Errorf("encode the backup version: %w", err)
		}
		ch.Secrets = []store.Secret{{Name: identity.SecretBackup, Value: stored.Value, Meta: meta, CreatedAt: g.Env.Now()}}
	}
	if err := g.Save(ctx, ch); err != nil {
		return fmt.Errorf("store a received secret: %w", err)
	}
	return nil
}
