package interceptors

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/go-json-experiment/json/jsontext"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/engineerr"
	"e2ee-proxy/interceptors/internal/exchange"
)

// Sends of message events: PUT rooms/{roomId}/send/{eventType}/{txnId}, and POST without
// the transaction ID, which some homeservers take as well (attack N7).
//
// Into a room that is not encrypted they pass byte for byte. Into an encrypted one they
// become m.room.encrypted, whatever their type, except:
//   - m.reaction and m.room.redaction are sent in clear, see inclear.go.
//   - m.room.encrypted made by a client whose keys the proxy holds is refused: such a
//     client has no keys to make it with.
//
// Each goes with its client's transaction ID, unless that was used for something else.
//
// A delayed event passes if the homeserver can delay it, see delayed.go.
//
// There is one rule about clear text, whatever is known of the device: nothing but those
// exceptions is sent into a room that is, ever was or may be encrypted. A client that does
// its own encryption ([e2ee.ModeForeign]) sends m.room.encrypted, which passes untouched;
// nobody can tell whether it really does, since a homeserver can invent keys for any
// device. Only policy.native_clear_text lifts the rule for such devices. A token without a
// device, and a device whose keys are gone, cannot encrypt. If it is not known whether a
// room is encrypted, nothing is sent.

// send handles [Send].
func (r *rooms) send(x *Exchange) error {
	if err := checkDelay(x); err != nil {
		return err
	}
	dev, err := x.Device()
	if err != nil {
		return err
	}
	native := dev.Mode() == e2ee.ModeForeign && x.Endpoint.Params["eventType"] == typeEncrypted
	if r.clearTextAllowed(dev) && !native {
		return forwardOnce(x)
	}
	room, err := x.RoomParam()
	if err != nil {
		return err
	}
	if native {
		return r.sendNative(x, dev, room)
	}
	raw, err := x.ReadObject()
	if err != nil {
		return err
	}
	// The body is taken out of the request: it goes on only where it is put back.
	leave, err := r.order.send(x.Request.Context(), x.Identity.UserID, room)
	if err != nil {
		return err
	}
	defer leave()
	state, err := r.encryption(x, dev, room)
	if err != nil {
		return err
	}
	switch state {
	case e2ee.RoomPlain:
		if raw, err = r.files.inClear(x, dev, raw); err != nil {
			return err
		}
		return forwardClear(x, dev, room, raw)
	case e2ee.RoomEncrypted:
		leave()
		return r.sendEncrypted(x, dev, room, raw)
	case e2ee.RoomUnsupported:
		if dev.Mode() == e2ee.ModeForeign { // its client may know the algorithm
			return r.sendEncrypted(x, dev, room, raw)
		}
		return apierr.CannotEncrypt(true, nil)
	case e2ee.RoomUnknown:
	}
	return apierr.CannotEncrypt(false, nil)
}

// encryption returns the encryption of a room. A token without a device has no device in
// the engine, so the homeserver is asked with that token.
func (r *rooms) encryption(x *Exchange, dev Device, room id.RoomID) (e2ee.RoomEncryption, error) {
	ctx := x.Request.Context()
	var state e2ee.RoomEncryption
	var err error
	if dev.Mode() == e2ee.ModeNone {
		state, err = x.Devices.RoomEncryption(ctx, x.Identity.UserID, room, readStateAs(x))
	} else {
		state, err = dev.RoomEncryption(ctx, room)
	}
	if err != nil {
		return e2ee.RoomUnknown, engineerr.ForLookup(err)
	}
	return state, nil
}

// sendEncrypted sends into an encrypted room.
func (r *rooms) sendEncrypted(x *Exchange, dev Device, room id.RoomID, raw []byte) error {
	if _, err := exchange.ParseObject(raw); err != nil {
		return err
	}
	eventType := x.Endpoint.Params["eventType"]
	raw, err := withoutNotice(eventType, raw)
	if err != nil {
		return err
	}
	clear, err := inClear(eventType, raw)
	if err != nil {
		return err
	}
	if clear != nil {
		if clear, err = r.files.inClear(x, dev, clear); err != nil {
			return err
		}
		return forwardClear(x, dev, room, clear)
	}
	switch dev.Mode() {
	case e2ee.ModeProxied:
		if eventType == typeEncrypted {
			return apierr.Forbidden("The proxy does the encryption for this device, so that it cannot have keys of its own.").
				WithHint("Send the clear event, or log in as a new device to let the client encrypt.")
		}
		return r.sendWithFiles(x, dev, e2ee.Outgoing{
			RoomID: room, Type: eventType, TxnID: x.Endpoint.Params["txnId"], Content: raw,
		})
	case e2ee.ModeNone:
		if eventType == typeEncrypted {
			x.PutBack(raw)
			return r.sendNative(x, dev, room)
		}
		return tokenWithoutDevice()
	case e2ee.ModeForeign:
		return engineerr.ClearText()
	case e2ee.ModeLost:
		return engineerr.KeysLost()
	case e2ee.ModeUnknown:
	}
	return apierr.CannotEncrypt(false, errors.New("the device has not been compared with the homeserver"))
}

// sendNative passes an event on that the client has encrypted itself, byte for byte. One that
// only says so is clear text.
func (r *rooms) sendNative(x *Exchange, dev Device, room id.RoomID) error {
	client, err := x.Devices.Native(x.Request.Context(), x.Identity)
	if err != nil {
		return engineerr.NotSent(engineerr.For(err))
	}
	if client != nil {
		if err := client.MaySend(x.Request.Context(), room); err != nil {
			return engineerr.NotSent(engineerr.For(err))
		}
	}
	raw, err := x.ReadBody()
	if err != nil {
		return err
	}
	content, err := exchange.ParseObject(raw)
	if !r.clearTextAllowed(dev) {
		if err != nil {
			return err
		}
		if content.TextOrEmpty("algorithm") == "" || content.TextOrEmpty("ciphertext") == "" {
			return engineerr.NoCiphertext()
		}
	}
	x.PutBack(raw)
	if client == nil {
		return forwardOnce(x)
	}
	resp, err := x.Upstream.Do(x, once(x))
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusOK && exchange.AnswerObject(resp).TextOrEmpty("event_id") != "" && content.TextOrEmpty("algorithm") == megolm {
		client.SentEncrypted(room, id.SessionID(content.TextOrEmpty("session_id")))
	}
	return x.Upstream.Relay(x, resp)
}

// tokenWithoutDevice refuses a token that can have no keys.
func tokenWithoutDevice() *apierr.Error {
	return engineerr.RefuseEncrypted("This room is encrypted, and this access token belongs to no device, so the message was not sent: only a device can have encryption keys.",
		"Log in as the user and use the access token of that login.")
}

// forwardClear passes an event on as it is, with a transaction ID of its own if the client
// has used its for something else.
func forwardClear(x *Exchange, dev Device, room id.RoomID, body []byte) error {
	x.PutBack(body)
	client := x.Endpoint.Params["txnId"]
	if dev.Mode() != e2ee.ModeProxied || client == "" {
		return forwardOnce(x)
	}
	txn, err := dev.ClearTransaction(x.Request.Context(), e2ee.Outgoing{
		RoomID: room, Type: x.Endpoint.Params["eventType"], TxnID: client, Content: body,
	})
	if err != nil {
		return engineerr.NotSent(engineerr.For(fmt.Errorf("name the transaction: %w", err)))
	}
	if txn == client {
		return forwardOnce(x)
	}
	resp, err := x.Upstream.Do(x, Change{Params: map[string]string{"txnId": txn}})
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	return x.Upstream.Relay(x, resp)
}

// sendWithFiles encrypts an event with its files and sends it.
func (r *rooms) sendWithFiles(x *Exchange, dev Device, out e2ee.Outgoing) error {
	raw, used, err := r.files.hide(x, dev, out.Type, out.Content)
	if err != nil {
		return err
	}
	content, err := exchange.ParseObject(raw)
	if err != nil {
		return err
	}
	if err := checkAttachment(out.Type, content); err != nil {
		return err
	}
	out.Content = raw
	return r.encryptAndSend(x, dev, out, func(event id.EventID) error {
		if len(used) == 0 {
			return nil
		}
		return dev.Files().Sent(context.WithoutCancel(x.Request.Context()), used, event)
	})
}

// encryptAndSend encrypts an event and sends it. Repeating a transaction sends the same
// ciphertext again, or nothing if the homeserver has confirmed it. sent is called with
// the event that it became.
func (r *rooms) encryptAndSend(x *Exchange, dev Device, out e2ee.Outgoing, sent func(id.EventID) error) error {
	change := Change{Method: http.MethodPut, Params: map[string]string{"eventType": typeEncrypted}}
	if out.TxnID == "" {
		out.TxnID = ownTxn(x)
		change.Pattern = x.Endpoint.Pattern + "/{txnId}"
	}
	give, err := dev.TransactionTurn(x.Request.Context(), out)
	if err != nil {
		return err
	}
	defer give()
	made, err := dev.Encrypt(x.Request.Context(), out)
	if err != nil {
		return engineerr.NotSent(engineerr.For(fmt.Errorf("encrypt: %w", err)))
	}
	if made.Again && made.EventID == "" {
		if made.EventID, err = sentBefore(x, out.RoomID, made); err != nil {
			return err
		}
		if made.EventID != "" {
			dev.Sent(out, made.TxnID, made.EventID)
			if err := sent(made.EventID); err != nil {
				return err
			}
		}
	}
	if made.EventID != "" {
		return x.WriteJSON(map[string]id.EventID{"event_id": made.EventID})
	}
	if err := checkCiphertext(made.Content); err != nil {
		return err
	}
	if made.TxnID == "" {
		return apierr.CannotEncrypt(false, errors.New("the engine named no transaction"))
	}
	change.Body, change.Params["txnId"] = made.Content, made.TxnID
	ctx, stop := outlasting(x.Request.Context())
	defer stop()
	asking := *x
	asking.Request = x.Request.WithContext(ctx)
	resp, err := x.Upstream.Do(&asking, change)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	switch {
	case resp.StatusCode/100 == 4 && !made.Again: // else an earlier one may be in the making
		dev.NotSent(out, made.TxnID)
	case resp.StatusCode == http.StatusOK:
		if event := exchange.AnswerObject(resp).TextOrEmpty("event_id"); event != "" { // a delayed event has no ID yet
			dev.Sent(out, made.TxnID, id.EventID(event))
			if err := sent(id.EventID(event)); err != nil {
				return err
			}
		}
	}
	return x.Upstream.Relay(x, resp)
}

// checkCiphertext refuses to send an empty body: a Change without a body would send the
// client's clear text.
func checkCiphertext(content []byte) error {
	members, err := exchange.ParseObject(content)
	if err != nil || members.TextOrEmpty("algorithm") != megolm || members.TextOrEmpty("ciphertext") == "" {
		return apierr.CannotEncrypt(false, errors.New("the engine made no ciphertext"))
	}
	for _, m := range members {
		more := true
		switch m.Name {
		case "algorithm", "ciphertext", "session_id":
			more = jsontext.Value(m.Value).Kind() != jsontext.KindString
		case "m.relates_to":
			_, more = e2ee.ClearRelation(m.Value)
		}
		if more {
			return apierr.CannotEncrypt(false, errors.New("the engine left clear text beside the ciphertext"))
		}
	}
	return nil
}
