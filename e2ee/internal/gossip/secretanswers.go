package gossip

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/auditing"
	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/e2ee/internal/orgrules"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/audit"
	"e2ee-proxy/internal/rules"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Answers to m.secret.request of the user's other devices. Requests come in clear, so
// anybody can forge them: a secret is sent over Olm, and only to a device that the identity
// has confirmed (requirements 1.14, 15.4).
const (
	// maxRequests bounds the waiting requests. requestEvery is the least time between two
	// answers with the same secret for one device.
	maxRequests  = 32
	requestEvery = time.Minute
)

// secretRequest is a request that waits for its answer.
type secretRequest struct {
	Device id.DeviceID `json:"device"`
	ID     string      `json:"id"`
	Name   string      `json:"name"`
	At     int64       `json:"at,omitempty"` // when it came, in seconds since 1970
}

// givenSecret is a secret that was sent to a device.
type givenSecret struct {
	device id.DeviceID
	name   string
}

// SecretRequest takes an m.secret.request, or removes the one that it cancels. The caller
// holds the device's lock.
func (in *Incoming) SecretRequest(sender id.UserID, content json.RawMessage) {
	var req struct {
		Action    string      `json:"action"`
		Name      string      `json:"name"`
		RequestID string      `json:"request_id"`
		Device    id.DeviceID `json:"requesting_device_id"`
	}
	x := in.x
	if strictjson.Unmarshal(content, &req) != nil || sender != x.Account.User || req.Device == x.ID ||
		req.Device == "" || req.RequestID == "" || len(req.RequestID) > wire.MaxIDLength || len(req.Device) > wire.MaxIDLength {
		return
	}
	same := func(r secretRequest) bool { return r.Device == req.Device && r.ID == req.RequestID }
	switch req.Action {
	case "request":
		if w := in.changeRequests(); !slices.ContainsFunc(w.Secrets, same) && len(w.Secrets) < maxRequests && sharedSecret(req.Name) {
			w.Secrets = append(w.Secrets, secretRequest{req.Device, req.RequestID, req.Name, x.Env.Now().Unix()})
		}
	case "request_cancellation":
		w := in.changeRequests()
		w.Secrets = slices.DeleteFunc(w.Secrets, same)
	}
}

// sharedSecret reports whether a secret is one that devices share with each other.
func sharedSecret(name string) bool {
	switch name {
	case identity.SecretMaster, identity.SecretSelfSigning, identity.SecretUserSigning, identity.SecretBackup:
		return true
	default:
		return false
	}
}

// AnswerSecretRequests sends the requested secrets to the devices that may have them.
func (x *Exchange) AnswerSecretRequests(ctx context.Context) error {
	requests, err := x.waiting(ctx, func(w *waitingRequests) int { return len(w.Secrets) })
	if err != nil || requests == nil {
		return err
	}
	if x.Account.Settings().IgnoreSecretRequests { // requirement 15.5
		return x.ignoreSecretRequests(ctx)
	}
	own, err := x.answeringUser(ctx)
	if err != nil {
		return err
	}
	for _, req := range requests.Secrets {
		var why rules.Answer
		became, over, err := x.answerTo(own, req.Device, req.At, func(dev *trustcache.Device) (answer, error) {
			answers, err := x.Env.Rules.Now().Ask(ctx, []rules.Question{orgrules.SecretQuestion(own, dev)})
			if err != nil {
				return answerLater, err
			}
			if why = answers[0]; why.Effect != rules.Allow {
				return answerRuled, nil
			}
			return x.giveSecret(ctx, req, dev)
		})
		if err != nil {
			return err
		}
		if !over {
			continue
		}
		x.Env.Counts.Secrets.WithLabelValues("refused").Inc()
		err = x.dropRequests(ctx, func(w *waitingRequests) []*auditing.Decision {
			w.dropSecret(req)
			d := auditing.Begin(x.Device, audit.KindSecret).Secret(req.Name)
			if !audited(d, own, req.Device, became, why) {
				return nil
			}
			return []*auditing.Decision{d}
		})
		if err != nil {
			return err
		}
	}
	return x.host.FlushOutbox(ctx)
}

// ignoreSecretRequests drops the requests of an account that leaves them unanswered.
func (x *Exchange) ignoreSecretRequests(ctx context.Context) error {
	return x.dropRequests(ctx, func(w *waitingRequests) (denied []*auditing.Decision) {
		for _, req := range w.Secrets {
			d := auditing.Begin(x.Device, audit.KindSecret)
			d.Secret(req.Name)
			d.Add(nil, &trustcache.Device{UserID: x.Account.User, DeviceID: req.Device}, audit.Refused, "", auditing.RuleNotAnswered)
			denied = append(denied, d)
		}
		w.Secrets = nil
		return denied
	})
}

// giveSecret encrypts a secret for a device, puts it into the outbox and removes the
// request, in one write. Nothing is sent if the secret is not here or does not belong to
// the published identity, or if the device lost its right to it while a one-time key was
// claimed.
func (x *Exchange) giveSecret(ctx context.Context, req secretRequest, dev *trustcache.Device) (answer, error) {
	key := givenSecret{req.Device, req.Name}
	x.Mu.Lock()
	given, silent := x.secretsGiven.within(requestEvery, key, x.Env.Now()), x.host.HasNoKeys(dev)
	x.Mu.Unlock()
	switch {
	case given:
		return answerRefused, nil
	case silent:
		return answerLater, nil
	}
	if _, err := x.Env.Store.Secret(ctx, x.Account.Row, req.Name); errors.Is(err, store.ErrNotFound) {
		return answerRefused, nil // no secret, so no key is claimed
	} else if err != nil {
		return answerLater, fmt.Errorf("load a secret: %w", err)
	}
	to := []*trustcache.Device{dev}
	claimed, err := x.host.ClaimFor(ctx, to)
	if err != nil {
		return answerLater, fmt.Errorf("claim a one-time key: %w", err)
	}
	x.Mu.Lock()
	defer x.Mu.Unlock()
	if !slices.Contains(x.requests.Secrets, req) || x.secretsGiven.within(requestEvery, key, x.Env.Now()) || x.Account.Settings().IgnoreSecretRequests {
		return answerRefused, nil // the request was cancelled
	}
	own, err := x.host.StillMayHold(ctx, dev)
	if err != nil || own == nil || secretRuled(x.Env.Rules.Now().Again(), own, own.Device(dev.DeviceID)).Effect != rules.Allow {
		return answerDenied, err
	}
	content, err := x.secretContent(ctx, req, own)
	if err != nil || content == nil {
		return answerRefused, err
	}
	s := x.Begin()
	sealed, _, err := x.host.EncryptAll(ctx, s, "m.secret.send", content, to, claimed)
	if err != nil {
		return answerLater, err
	}
	if len(sealed) == 0 {
		x.host.RememberNoKeys(dev)
		return answerLater, nil
	}
	rest, err := x.stageWithout(s, func(w *waitingRequests) { w.dropSecret(req) })
	if err != nil {
		return answerLater, err
	}
	s.Changes.Audit = auditing.Gave(x.Device, audit.KindSecret, own, dev).Secret(req.Name).Records()
	s.Changes.Outbox = olm.AboutItems(olm.About{Kind: olm.KindSecret}, sealed, x.Env.Now())
	s.After(func() {
		x.requests = *rest
		x.host.OutboxFilled()
		x.secretsGiven.add(key, x.Env.Now())
	})
	if err := s.Commit(ctx, "an answer"); err != nil {
		return answerLater, err
	}
	x.logGivenSecret(req)
	return answerGiven, nil
}

// secretRuled asks the organisation's rules about a device that may have secrets.
func secretRuled(ask orgrules.Decide, own *trustcache.User, dev *trustcache.Device) rules.Answer {
	q := orgrules.SecretQuestion(own, dev)
	return ask(&q)
}

// logGivenSecret counts and logs that a secret was sent.
func (x *Exchange) logGivenSecret(req secretRequest) {
	x.Env.Counts.Secrets.WithLabelValues("sent").Inc()
	x.Env.Log.Info().Stringer("account", x.Account.User).Stringer("device", req.Device).Str("secret", req.Name).
		Msg("A confirmed device of the user was given a secret")
}

// secretContent returns the m.secret.send of a secret as stored now; nil when it is not
// here or does not belong to what is published.
func (x *Exchange) secretContent(ctx context.Context, req secretRequest, own *trustcache.User) (json.RawMessage, error) {
	stored, err := x.Env.Store.Secret(ctx, x.Account.Row, req.Name)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load a secret: %w", err)
	}
	if !plausibleSecret(req.Name, stored.Value.Reveal(), own) {
		return nil, nil
	}
	return strictjson.Object{{Name: "request_id", Value: strictjson.Quote(req.ID)}, {Name: "secret", Value: strictjson.Quote(wire.Base64(stored.Value.Reveal()))}}.Encode(), nil
}
