package verification

import (
	"encoding/base64"
	"slices"

	"e2ee-proxy/e2ee/internal/core"
)

// sas is the part of a flow that m.sas.v1 needs.
type sas struct {
	ours      bool // our start counts
	startRaw  []byte
	key       ephemeral
	promise   string // the other side's commitment
	accepted  bool   // an accept was sent, or came
	shared    []byte
	bytes     []byte
	from, to  end // the keys of both, from ours
	confirmed bool
	proved    bool // their authentication codes are right
}

// Emoji starts with emoji.
func (f Flow) Emoji(k Known) (Flow, Effects, error) {
	if f.state != Ready {
		return f, Effects{}, stepError(f.sas.startRaw != nil && !f.state.Over())
	}
	if !f.can(methodSAS) {
		return f, Effects{}, errStep
	}
	if !k.Them.Known() {
		return f, Effects{}, core.ErrCannotEncrypt
	}
	if f.changed(k) {
		next, eff := f.cancel(k.Now, codeKeyMismatch)
		return next, eff, nil
	}
	m := f.say(typeStart, text("from_device", k.Us.Device.String()), text("method", methodSAS),
		list("key_agreement_protocols", agreement), list("hashes", hashing),
		list("message_authentication_codes", macMethod), list("short_authentication_string", decimal, emoji))
	f.state, f.sas = Started, sas{ours: true, startRaw: m.Content}
	return f, Effects{Send: []Message{m}}, nil
}

// start takes the other side's start.
func (f Flow) start(k Known, ev *Event) (Flow, Effects) {
	method := ev.content.TextOrEmpty("method")
	if ev.fromDevice() != f.device {
		if f.room != "" {
			return f, Effects{} // another device of theirs, which is not asked
		}
		return f.cancel(k.Now, codeUnexpected)
	}
	if f.state == Started && f.sas.ours && !f.sas.accepted && method == methodSAS { // requirement 13.8
		us, them := k.Us.User.String(), f.user.String()
		if f.own {
			us, them = k.Us.Device.String(), f.device.String()
		}
		if us < them {
			return f, Effects{}
		}
	} else if f.state != Ready {
		return f.cancel(k.Now, codeUnexpected)
	}
	switch method {
	case methodSAS:
		return f.startSAS(k, ev)
	case methodReciprocate:
		return f.reciprocated(k, ev)
	}
	return f.cancel(k.Now, codeUnknownMethod)
}

// startSAS answers a start with an accept, which has a commitment to the own key.
func (f Flow) startSAS(k Known, ev *Event) (Flow, Effects) {
	has := func(member, value string) bool { return slices.Contains(ev.content.Texts(member), value) }
	if !has("key_agreement_protocols", agreement) || !has("hashes", hashing) ||
		!has("message_authentication_codes", macMethod) || !has("short_authentication_string", decimal) {
		return f.cancel(k.Now, codeUnknownMethod)
	}
	key, err := newEphemeral()
	if err != nil {
		return f.cancel(k.Now, codeNotSaved)
	}
	bound, err := commitment(key.public(), ev.raw)
	if err != nil {
		return f.cancel(k.Now, codeInvalid)
	}
	short := []string{decimal}
	if has("short_authentication_string", emoji) {
		short = append(short, emoji)
	}
	f.state, f.sas = Started, sas{startRaw: ev.raw, key: key, accepted: true}
	return f, Effects{Send: []Message{f.say(typeAccept, text("method", methodSAS), text("key_agreement_protocol", agreement), text("hash", hashing),
		text("message_authentication_code", macMethod), list("short_authentication_string", short...), text("commitment", bound))}}
}

// accepted takes the other side's accept, and sends the key.
func (f Flow) accepted(k Known, ev *Event) (Flow, Effects) {
	if f.state != Started || !f.sas.ours || f.sas.accepted {
		return f.cancel(k.Now, codeUnexpected)
	}
	is := func(member, value string) bool { return ev.content.TextOrEmpty(member) == value }
	short := ev.content.Texts("short_authentication_string")
	if !is("key_agreement_protocol", agreement) || !is("hash", hashing) || !is("message_authentication_code", macMethod) ||
		!slices.Contains(short, decimal) && !slices.Contains(short, emoji) {
		return f.cancel(k.Now, codeUnknownMethod)
	}
	promise := ev.content.TextOrEmpty("commitment")
	if raw, err := base64.RawStdEncoding.DecodeString(promise); err != nil || len(raw) != 32 {
		return f.cancel(k.Now, codeInvalid)
	}
	key, err := newEphemeral()
	if err != nil {
		return f.cancel(k.Now, codeNotSaved)
	}
	f.sas.accepted, f.sas.promise, f.sas.key = true, promise, key
	return f, Effects{Send: []Message{f.say(typeKey, text("key", key.public()))}}
}

// keyCame takes the other side's key. Who accepted answers with its own, which it is bound
// to; who started checks that.
func (f Flow) keyCame(k Known, ev *Event) (Flow, Effects) {
	if f.state != Started || !f.sas.accepted || f.sas.shared != nil {
		return f.cancel(k.Now, codeUnexpected)
	}
	theirs := ev.content.TextOrEmpty("key")
	us, them := end{k.Us.User, k.Us.Device, f.sas.key.public()}, end{f.user, f.device, theirs}
	starter, accepter := them, us
	var eff Effects
	if f.sas.ours {
		starter, accepter = us, them
		promised, err := commitment(theirs, f.sas.startRaw)
		if err != nil || !same(promised, f.sas.promise) {
			return f.cancel(k.Now, codeCommitment)
		}
	} else {
		eff.Send = []Message{f.say(typeKey, text("key", us.key))}
	}
	shared, err := f.sas.key.agree(theirs)
	if err != nil || theirs == us.key {
		return f.cancel(k.Now, codeInvalid)
	}
	bytes, err := sasBytes(shared, starter, accepter, f.txn)
	if err != nil {
		return f.cancel(k.Now, codeInvalid)
	}
	f.state, f.sas.shared, f.sas.bytes, f.sas.from, f.sas.to = Compare, shared, bytes, us, them
	if f.auto {
		next, more, err := f.Confirm(k, true)
		if err == nil {
			return next, eff.and(more)
		}
	}
	return f, eff
}

// Confirm says whether the emoji match.
func (f Flow) Confirm(k Known, match bool) (Flow, Effects, error) {
	switch {
	case f.state == Confirmed && f.sas.confirmed && match, f.state == Done && match:
		return f, Effects{}, nil
	case f.state != Compare:
		return f, Effects{}, errStep
	case !match:
		next, eff := f.cancel(k.Now, codeSAS)
		return next, eff, nil
	case !k.Them.Known():
		return f, Effects{}, core.ErrCannotEncrypt
	case f.changed(k):
		next, eff := f.cancel(k.Now, codeKeyMismatch)
		return next, eff, nil
	}
	keys := map[string]string{"ed25519:" + k.Us.Device.String(): k.Us.Ed25519.String()}
	if f.trusted { // else it is the other side that has the identity
		keys["ed25519:"+f.ourMaster.String()] = f.ourMaster.String()
	}
	members, err := (&macs{f.sas.shared, f.sas.from, f.sas.to, f.txn}).content(keys)
	if err != nil {
		return f, Effects{}, err
	}
	f.state, f.sas.confirmed = Confirmed, true
	eff := Effects{Send: []Message{f.say(typeMac, members...)}}
	if f.sas.proved {
		eff.Target = f.target()
	}
	return f, eff, nil
}

// macCame checks the other side's authentication codes: what is verified must be among the
// keys that they prove, and none of them may be wrong.
func (f Flow) macCame(k Known, ev *Event) (Flow, Effects) {
	if f.state != Compare && f.state != Confirmed || f.sas.shared == nil || f.sas.proved {
		return f.cancel(k.Now, codeUnexpected)
	}
	known := map[string]string{"ed25519:" + f.master.String(): f.master.String()}
	if f.key != "" {
		known["ed25519:"+f.device.String()] = f.key.String()
	}
	proved, ok := (&macs{f.sas.shared, f.sas.to, f.sas.from, f.txn}).check(ev.content, known)
	need := "ed25519:" + f.master.String()
	if f.own && f.trusted {
		need = "ed25519:" + f.device.String()
	}
	if !ok || !proved[need] {
		return f.cancel(k.Now, codeKeyMismatch)
	}
	f.sas.proved = true
	if f.sas.confirmed {
		return f, Effects{Target: f.target()}
	}
	return f, Effects{}
}
