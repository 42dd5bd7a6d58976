package native

import (
	"bytes"
	"errors"
	"net/http"
	"slices"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/engineerr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/budget"
	"e2ee-proxy/internal/strictjson"
)

// Handlers are those of clients with keys of their own. Every token's requests go through
// them: whose keys a device has is not asked, and what a device without keys of its own asks
// for is judged alike.
type Handlers struct {
	answers *budget.Budget
}

// New returns the handlers. They share state, so that a process calls this once.
func New() *Handlers { return &Handlers{budget.New(answersMemory, answersPerUser)} }

// client returns the client of an exchange, nil when policy.native is off.
func client(x *exchange.Exchange) (exchange.Native, error) {
	c, err := x.Devices.Native(x.Request.Context(), x.Identity)
	if err != nil {
		return nil, engineerr.For(err)
	}
	return c, nil
}

// Claim handles POST keys/claim: one-time keys are claimed for those devices only that may be
// given something. If there are none the homeserver is not asked, so that nobody's keys are
// used up.
func (h *Handlers) Claim(x *exchange.Exchange) error {
	c, err := client(x)
	if err != nil {
		return err
	}
	if c == nil {
		return x.Upstream.Forward(x)
	}
	return filter(x, c, "one_time_keys", nil, map[string]any{"one_time_keys": struct{}{}, "failures": struct{}{}})
}

// SendToDevice handles PUT sendToDevice/{eventType}/{txnId}. What is encrypted goes to devices
// that may have it; the client is told that all of it went. Keys and secrets in clear are
// refused. Everything else passes: verification, requests for keys and notes about them are
// not encrypted.
func (h *Handlers) SendToDevice(x *exchange.Exchange) error {
	eventType := x.Endpoint.Params["eventType"]
	if eventType != "m.room.encrypted" && !holdsKeys(eventType) {
		return x.Upstream.Forward(x)
	}
	c, err := client(x)
	switch {
	case err != nil:
		return err
	case c == nil || eventType != "m.room.encrypted" && c.MayClear():
		return x.Upstream.Forward(x)
	case eventType != "m.room.encrypted":
		return keysInClear()
	}
	return filter(x, c, "messages", recipientKeys, struct{}{})
}

// holdsKeys reports whether a to-device event of this type holds a key or a secret, so that it
// must only be sent encrypted.
func holdsKeys(eventType string) bool {
	switch eventType {
	case "m.room_key", "m.forwarded_room_key", "m.secret.send", "m.room_key_bundle", "io.element.msc4268.room_key_bundle",
		"m.secret.push", "io.element.msc4385.secret.push", // MSC4385
		"m.call.encryption_keys", "io.element.call.encryption_keys", "m.rtc.encryption_key", "org.matrix.msc4143.rtc.encryption_key": // of calls
		return true
	}
	return false
}

// keysInClear refuses a key or a secret that is not encrypted.
func keysInClear() *apierr.Error {
	return apierr.NewError(http.StatusForbidden, apierr.CodeClearText,
		"Keys and secrets go to devices encrypted only: the homeserver could read this one, so it was not sent.").
		WithHint("Send it inside m.room.encrypted.")
}

// filter takes those entries out of a request's member whose devices may not be given
// anything, and sends the rest. keysOf returns the keys that a message is encrypted for; nil
// when the entries are no messages. none is the answer when nothing is left.
func filter(x *exchange.Exchange, c exchange.Native, member string, keysOf func([]byte) []string, none any) error {
	raw, err := x.ReadWhole()
	if err != nil {
		return err
	}
	body, found, err := readByDevice(raw, member)
	switch {
	case errors.Is(err, errTooMany):
		return apierr.NewError(http.StatusRequestEntityTooLarge, apierr.CodeTooLarge, "The request names more devices than the proxy takes at a time.").
			WithHint("Divide it.")
	case err != nil:
		return apierr.BadJSON("The request body has not the form of the specification, has a member twice, or text that is not valid Unicode.").Because(err)
	}
	var to []e2ee.NativeRecipient
	if found {
		to = body.recipients(keysOf)
	}
	if slices.ContainsFunc(to, func(r e2ee.NativeRecipient) bool { return r.DeviceID == "*" }) {
		return apierr.InvalidParam("What is encrypted is encrypted for one device: * names none.")
	}
	x.PutBack(raw)
	if len(to) == 0 {
		return x.Upstream.Forward(x)
	}
	may, err := c.MayGet(x.Request.Context(), to)
	if err != nil {
		return engineerr.For(err)
	}
	if len(may) != len(to) {
		return errors.New("the engine decided about other devices")
	}
	if !slices.Contains(may, false) {
		return x.Upstream.Forward(x)
	}
	n := -1
	parts, left := body.without(func(string, string) bool { n++; return !may[n] }, false)
	if left == 0 {
		return x.WriteJSON(none)
	}
	resp, err := x.Upstream.Do(x, exchange.Change{Body: bytes.Join(parts, nil)}) //nolint:bodyclose // RelayAndClose closes it
	if err != nil {
		return err
	}
	return x.RelayAndClose(resp)
}

// recipients returns the devices that have entries, in the order of the body.
func (b *byDevice) recipients(keysOf func([]byte) []string) []e2ee.NativeRecipient {
	var out []e2ee.NativeRecipient
	for i := range b.users {
		user := &b.users[i]
		for _, device := range user.devices {
			r := e2ee.NativeRecipient{UserID: id.UserID(user.Name), DeviceID: id.DeviceID(device.Name)}
			if keysOf != nil {
				r.Message, r.For = true, keysOf(b.raw[device.Value:device.End])
			}
			out = append(out, r)
		}
	}
	return out
}

// recipientKeys returns the keys that an Olm message is encrypted for; none if it is no such
// message.
func recipientKeys(content []byte) []string {
	message, err := strictjson.Parse(content)
	if err != nil {
		return nil
	}
	ciphertext, err := strictjson.Parse(message.Get("ciphertext"))
	if err != nil {
		return nil
	}
	keys := make([]string, len(ciphertext))
	for i := range ciphertext {
		keys[i] = ciphertext[i].Name
	}
	return keys
}
