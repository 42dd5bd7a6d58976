package verification

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"strings"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/wire"
)

// qr is the part of a flow that codes need.
type qr struct {
	shown   []byte // what the code that is shown here contains
	secret  []byte // its secret
	scanned *Code  // the code of the other side that was scanned here
}

// keyBytes returns the 32 bytes of a key; nil when it is none.
func keyBytes(key id.Ed25519) []byte {
	raw, err := base64.RawStdEncoding.DecodeString(key.String())
	if err != nil || len(raw) != keySize {
		return nil
	}
	return raw
}

// makeCode makes the code that the other side may scan, when it can.
func (f *Flow) makeCode(k Known) {
	if f.auto || !f.can(methodScan) || !f.can(methodReciprocate) {
		return
	}
	c := Code{Txn: f.txn, Secret: make([]byte, secretSize)}
	switch {
	case !f.own:
		c.Mode, c.First, c.Second = modeOther, keyBytes(k.Us.Master), keyBytes(f.master)
	case f.trusted:
		c.Mode, c.First, c.Second = modeTrusted, keyBytes(f.master), keyBytes(f.key)
	default:
		c.Mode, c.First, c.Second = modeUntrusted, keyBytes(k.Us.Ed25519), keyBytes(f.master)
	}
	if c.First == nil || c.Second == nil {
		return
	}
	_, _ = rand.Read(c.Secret) // never fails
	f.qr = qr{shown: c.Encode(), secret: c.Secret}
}

// Scan takes the code that the other side shows. Keys that are not those that are known here
// end the flow (requirement 13.17).
func (f Flow) Scan(k Known, c *Code) (Flow, Effects, error) {
	switch {
	case c.Txn != f.txn:
		return f, Effects{}, core.ErrOtherCode
	case f.state == Confirmed && f.qr.scanned != nil:
		return f, Effects{}, nil
	case f.state != Ready || !f.can(methodReciprocate):
		return f, Effects{}, errStep
	case !k.Them.Known():
		return f, Effects{}, core.ErrCannotEncrypt
	case f.changed(k), !f.fits(k, c):
		next, eff := f.cancel(k.Now, codeKeyMismatch)
		return next, eff, nil
	}
	f.state, f.qr.scanned = Confirmed, c
	return f, Effects{Send: []Message{f.say(typeStart, text("from_device", k.Us.Device.String()),
		text("method", methodReciprocate), text("secret", wire.Base64(c.Secret)))}}, nil
}

// fits reports whether a code shows the keys that are known here.
func (f *Flow) fits(k Known, c *Code) bool {
	is := func(got []byte, key id.Ed25519) bool {
		want := keyBytes(key)
		return want != nil && subtle.ConstantTimeCompare(got, want) == 1
	}
	switch c.Mode {
	case modeOther: // their identity, and ours as they know it
		return !f.own && is(c.First, f.master) && is(c.Second, k.Us.Master)
	case modeTrusted: // the identity, and our device as they know it
		return f.own && is(c.First, f.master) && is(c.Second, k.Us.Ed25519)
	case modeUntrusted: // their device, and the identity as they see it
		return f.own && f.trusted && is(c.First, f.key) && is(c.Second, f.master)
	}
	return false
}

// scannedTarget is what a code that was scanned here proves.
func (f *Flow) scannedTarget() *Target {
	t := f.target()
	if f.qr.scanned.Mode == modeTrusted && f.trusted {
		t.Device, t.Key = "", "" // both have the identity already, and the code does not name their device
	}
	return t
}

// reciprocated takes the other side's word that it scanned the code that is shown here. Only
// who saw it knows its secret.
func (f Flow) reciprocated(k Known, ev *Event) (Flow, Effects) {
	secret, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(ev.content.TextOrEmpty("secret"), "="))
	switch {
	case f.qr.secret == nil:
		return f.cancel(k.Now, codeUnexpected)
	case err != nil, subtle.ConstantTimeCompare(secret, f.qr.secret) != 1:
		return f.cancel(k.Now, codeKeyMismatch)
	}
	f.state = Scanned
	return f, Effects{}
}

// Scanned says whether the person at the other side says that they scanned the code.
func (f Flow) Scanned(k Known, yes bool) (Flow, Effects, error) {
	switch {
	case f.state == Done && yes:
		return f, Effects{}, nil
	case f.state != Scanned:
		return f, Effects{}, errStep
	case !yes:
		next, eff := f.cancel(k.Now, codeKeyMismatch)
		return next, eff, nil
	case !k.Them.Known():
		return f, Effects{}, core.ErrCannotEncrypt
	case f.changed(k):
		next, eff := f.cancel(k.Now, codeKeyMismatch)
		return next, eff, nil
	}
	f.state = Confirmed
	return f, Effects{Target: f.target()}, nil
}

// A code is bytes, not text: "MATRIX", version, mode, length of the transaction ID, that ID,
// two keys, and a secret to the end (requirement 13.17).
const (
	codeHead    = "MATRIX"
	codeVersion = 2
	keySize     = 32
	secretSize  = 16
	minSecret   = 8
	maxSecret   = 256

	modeOther     = 0 // two users verify each other
	modeTrusted   = 1 // who shows it has the identity
	modeUntrusted = 2 // who shows it does not have it
)

// Code is what a QR code says.
type Code struct {
	Mode          byte
	Txn           string
	First, Second []byte
	Secret        []byte
}

// Encode returns the bytes of the code.
func (c *Code) Encode() []byte {
	out := append([]byte(codeHead), codeVersion, c.Mode, byte(len(c.Txn)>>8), byte(len(c.Txn)))
	out = append(out, c.Txn...)
	out = append(append(out, c.First...), c.Second...)
	return append(out, c.Secret...)
}

// ReadCode reads the bytes of a code. Error: core.ErrNotACode.
func ReadCode(raw []byte) (*Code, error) {
	rest, is := strings.CutPrefix(string(raw), codeHead)
	if !is || len(rest) < 4 || rest[0] != codeVersion || rest[1] > modeUntrusted {
		return nil, core.ErrNotACode
	}
	c := &Code{Mode: rest[1]}
	n := int(rest[2])<<8 | int(rest[3])
	rest = rest[4:]
	if n == 0 || n > maxTxn || len(rest) < n+2*keySize+minSecret || len(rest) > n+2*keySize+maxSecret {
		return nil, core.ErrNotACode
	}
	c.Txn, rest = rest[:n], rest[n:]
	c.First, c.Second, c.Secret = []byte(rest[:keySize]), []byte(rest[keySize:2*keySize]), []byte(rest[2*keySize:])
	return c, nil
}
