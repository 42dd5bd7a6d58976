package e2ee

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"sync"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/crypto/signatures"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// claimBatch is how many one-time keys one request claims at most.
const claimBatch = 500

// claimFor claims one-time keys for the devices we have no Olm session with. Devices
// whose keys are missing or not theirs are left out of the result.
func (o *olmState) claimFor(ctx context.Context, devices []*trustcache.Device) (map[store.DeviceRef]id.Curve25519, error) {
	keys := make([]string, len(devices))
	for i, dev := range devices {
		keys[i] = dev.Curve25519.String()
	}
	have, err := o.eng.store.OlmPeers(ctx, o.acct.row, o.rowID, keys)
	if err != nil {
		return nil, err
	}
	var need []*trustcache.Device
	for i, dev := range devices {
		if !have[keys[i]] {
			need = append(need, dev)
		}
	}
	return o.claim(ctx, need)
}

// claim claims a one-time key for each device and checks its signature with the
// device's key (requirement 3.10).
func (o *olmState) claim(ctx context.Context, devices []*trustcache.Device) (map[store.DeviceRef]id.Curve25519, error) {
	claimed := make(map[store.DeviceRef]id.Curve25519, len(devices))
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
		err := o.call(ctx, wire.Request{
			Op: "claim one-time keys", Method: http.MethodPost,
			Path:   mautrix.ClientURLPath{"v3", "keys", "claim"},
			Body:   map[string]any{"one_time_keys": wanted, "timeout": 10000},
			Result: &resp, Large: true,
		})
		if err != nil {
			return nil, err
		}
		checked := make([]id.Curve25519, len(chunk))
		onAllCores(len(chunk), func(i int) {
			for name, raw := range resp.Keys[chunk[i].UserID][chunk[i].DeviceID] {
				if key := checkOneTimeKey(name, raw, chunk[i]); key != "" {
					checked[i] = key
				}
			}
		})
		for i, dev := range chunk {
			if checked[i] != "" {
				claimed[store.DeviceRef{UserID: dev.UserID, DeviceID: dev.DeviceID}] = checked[i]
			}
		}
	}
	return claimed, nil
}

// onAllCores does n things that cost time and do not depend on each other.
func onAllCores(n int, do func(i int)) {
	workers := min(runtime.GOMAXPROCS(0), n/4+1)
	part := func(w int) {
		for i := n * w / workers; i < n*(w+1)/workers; i++ {
			do(i)
		}
	}
	var others sync.WaitGroup
	for w := 1; w < workers; w++ {
		others.Go(func() { part(w) })
	}
	part(0)
	others.Wait()
}

// checkOneTimeKey gives the key if the device has signed it, else nothing.
func checkOneTimeKey(name string, raw json.RawMessage, dev *trustcache.Device) id.Curve25519 {
	if len(name) <= len(wire.AlgorithmSigned) || name[:len(wire.AlgorithmSigned)+1] != wire.AlgorithmSigned+":" {
		return ""
	}
	obj, err := strictjson.Parse(raw)
	if err != nil {
		return ""
	}
	key, ok := obj.Text("key")
	if !ok {
		return ""
	}
	signed, err := signatures.VerifySignatureJSON(raw, dev.UserID, dev.DeviceID.String(), dev.Ed25519)
	if err != nil || !signed {
		return ""
	}
	return id.Curve25519(key)
}

// olmEncryptAll encrypts one content to many devices: with the session that received
// last, or a new one made with a claimed key. Devices with neither are given back in
// without.
func (s *step) olmEncryptAll(ctx context.Context, eventType string, content json.RawMessage, devices []*trustcache.Device, claimed map[store.DeviceRef]id.Curve25519) (sealed []message, without []*trustcache.Device, err error) {
	d := s.d
	keys := make([]id.Curve25519, len(devices))
	for i, dev := range devices {
		keys[i] = dev.Curve25519
	}
	sessions, err := d.loadOlmSessions(ctx, keys)
	if err != nil {
		return nil, nil, err
	}
	todo := make([]*sealing, 0, len(devices))
	for _, dev := range devices {
		w := &sealing{dev: dev, claimed: claimed[store.DeviceRef{UserID: dev.UserID, DeviceID: dev.DeviceID}]}
		if list := sessions.byKey[dev.Curve25519]; len(list) > 0 {
			w.old = list[0]
		} else if w.claimed == "" {
			without = append(without, dev)
			continue
		}
		todo = append(todo, w)
	}
	frame := d.newEnvelopeFrame(eventType, content)
	onAllCores(len(todo), func(i int) { todo[i].run(d.olmState.account, frame) }) // the account is only read
	now := d.eng.now()
	for _, w := range todo {
		switch {
		case w.err != nil:
			without = append(without, w.dev)
			continue
		case w.made != nil:
			sessions.add(w.dev.Curve25519, w.made, now)
			s.after(func() { delete(d.olmState.noKeys, store.DeviceRef{UserID: w.dev.UserID, DeviceID: w.dev.DeviceID}) })
		default:
			sessions.dirty[w.old] = true
		}
		sealed = append(sealed, message{w.dev, w.content})
	}
	sessions.collect(s.ch)
	return sealed, without, nil
}

// sealing is the encryption of one message for one device, with an old session or a
// new one from a claimed key.
type sealing struct {
	dev     *trustcache.Device
	claimed id.Curve25519
	old     *olmSession
	made    *session.OlmSession
	content json.RawMessage
	err     error
}

func (w *sealing) run(own *olmAccount, frame *envelopeFrame) {
	var sess *session.OlmSession
	if w.old != nil {
		sess = w.old.sess
	} else {
		if w.made, w.err = own.newOutbound(w.dev.Curve25519, w.claimed); w.err != nil {
			return
		}
		sess = w.made
	}
	w.content, w.err = frame.seal(sess, w.dev)
}

// envelopeFrame is what the plaintexts of one content to many devices have in common.
type envelopeFrame struct {
	head      []byte
	senderKey string
}

// newEnvelopeFrame prepares the plaintext of requirement 6.4. It always carries our
// device keys with all signatures (requirement 6.10), so that others can judge us at once.
func (o *olmState) newEnvelopeFrame(eventType string, content json.RawMessage) *envelopeFrame {
	head := strictjson.Object{
		{Name: "type", Value: strictjson.Quote(eventType)},
		{Name: "content", Value: content},
		{Name: "sender", Value: strictjson.Quote(o.acct.user.String())},
		{Name: "keys", Value: strictjson.Object{{Name: "ed25519", Value: strictjson.Quote(o.ed25519.String())}}.Encode()},
	}
	if keys := o.host.shownKeys(); keys != nil {
		head = append(head, strictjson.Member{Name: "sender_device_keys", Value: keys})
	}
	raw := head.Encode()
	return &envelopeFrame{head: raw[:len(raw)-1], senderKey: o.curve25519.String()}
}

// seal encrypts for one device.
func (f *envelopeFrame) seal(s *session.OlmSession, to *trustcache.Device) (json.RawMessage, error) {
	plain := make([]byte, 0, len(f.head)+256)
	plain = append(plain, f.head...)
	plain = append(plain, `,"recipient":`...)
	plain = strictjson.AppendQuote(plain, to.UserID.String())
	plain = append(plain, `,"recipient_keys":{"ed25519":`...)
	plain = strictjson.AppendQuote(plain, to.Ed25519.String())
	plain = append(plain, `}}`...)
	kind, body, err := s.Encrypt(plain)
	if err != nil {
		return nil, fmt.Errorf("encrypt for a device: %w", err)
	}
	// Written out, because there may be a thousand of them. The body is base64.
	out := make([]byte, 0, len(body)+256)
	out = append(out, `{"algorithm":"`+wire.AlgorithmOlm+`","ciphertext":{`...)
	out = strictjson.AppendQuote(out, to.Curve25519.String())
	out = fmt.Appendf(out, `:{"type":%d,"body":"`, kind)
	out = append(out, body...)
	out = append(out, `"}},"sender_key":`...)
	return append(strictjson.AppendQuote(out, f.senderKey), '}'), nil
}
