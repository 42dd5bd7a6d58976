package verification

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/trustcache"
)

// Times of the specification (requirements 13.6, 13.16).
const (
	lifetime   = 10 * time.Minute // of a flow, and of a request from when it was sent
	attention  = 2 * time.Minute  // a request that nobody looks at
	fromFuture = 5 * time.Minute
)

// Us is this device and its owner's identity, as known now.
type Us struct {
	User    id.UserID
	Device  id.DeviceID
	Ed25519 id.Ed25519
	// Master is the owner's current identity; empty when there is none.
	Master id.Ed25519
	// Trusted reports whether that identity is verified here. Signs reports whether its
	// private keys are here.
	Trusted, Signs bool
}

// Known is what is known when something happens to a flow.
type Known struct {
	Now time.Time
	Us  Us
	// Them is the other side's user, which may be the own one.
	Them *trustcache.User
}

// Target is what a verification has proved, to be recorded: somebody else's identity, a
// device of the own user, or the own identity for a device that did not have it.
type Target struct {
	User   id.UserID
	Master id.Ed25519
	Device id.DeviceID // an own device to be signed
	Key    id.Ed25519  // its key
	Adopt  bool        // the own identity is to be trusted
}

// Effects are what follows of something that happens to a flow, in order: messages are sent,
// then Target is recorded, if there is one, and the flow is told by Recorded.
type Effects struct {
	Send   []Message
	Target *Target
}

// Flow is one verification. Its methods return the flow that it becomes, and do not change
// it. The exported ones are what can happen to it.
type Flow struct {
	ID    string
	user  id.UserID
	own   bool
	room  id.RoomID
	txn   string
	state State
	// device is the other side's, "" before it is known; asked are those that were asked.
	device   id.DeviceID
	asked    []id.DeviceID
	incoming bool
	auto     bool // confirmed by the account unseen, so that it proves nothing here
	sentAt   time.Time
	cameAt   time.Time
	looked   bool // a person has looked at it
	overAt   time.Time

	theirs []string // methods

	// What is verified, fixed when both sides are ready.
	master, key, ourMaster id.Ed25519
	trusted                bool

	pending *Event // an m.key.verification.start without a request
	sas     sas
	qr      qr

	code   string
	byThem bool // they cancelled
	seen   [][32]byte
}

// flowID returns the ID of a flow, which is the same at each device of a user.
func flowID(room id.RoomID, user id.UserID, txn string) string {
	sum := sha256.Sum256([]byte(room.String() + "\x00" + user.String() + "\x00" + txn))
	return hex.EncodeToString(sum[:10])
}

// Begin returns a flow that this side asks for, and its request. With a room the caller sends
// it there and tells its event ID by InRoom. Errors: those of possible.
func Begin(k Known, room id.RoomID, txn string, to []id.DeviceID) (Flow, Effects, error) {
	f := Flow{
		user: k.Them.UserID, own: k.Them.UserID == k.Us.User, room: room, txn: txn, state: Requested,
		asked: to, sentAt: k.Now, cameAt: k.Now, looked: true,
	}
	if len(to) == 1 {
		f.device = to[0]
	}
	if err := f.possible(k); err != nil {
		return f, Effects{}, err
	}
	members := []strictjson.Member{text("from_device", k.Us.Device.String()), list("methods", methods()...)}
	if room != "" {
		body := k.Us.User.String() + " wants to verify you. Your client does not support verification in a room."
		members = append(members, text("msgtype", Prefix+typeRequest), text("to", f.user.String()), text("body", body))
		return f, Effects{Send: []Message{{Type: "m.room.message", Content: strictjson.Object(members).Encode()}}}, nil
	}
	f.ID = flowID("", f.user, txn)
	at := strictjson.Member{Name: "timestamp", Value: []byte(strconv.FormatInt(k.Now.UnixMilli(), 10))}
	return f, Effects{Send: []Message{f.message(typeRequest, to, append(members, at)...)}}, nil
}

// InRoom returns the flow once its request is an event of its room.
func (f Flow) InRoom(event id.EventID) Flow {
	f.txn = event.String()
	f.ID = flowID(f.room, f.user, f.txn)
	return f
}

func methods() []string {
	return []string{methodSAS, methodShow, methodScan, methodReciprocate}
}

// Asked returns the flow that a request of the other side begins; false when it is to be
// ignored: it is old, from the future, for somebody else or of this device itself.
func Asked(us Us, ev *Event, now time.Time) (Flow, bool) {
	f := Flow{
		ID: flowID(ev.room, ev.sender, ev.txn), user: ev.sender, own: ev.sender == us.User, room: ev.room, txn: ev.txn,
		state: Requested, device: ev.fromDevice(), incoming: true, sentAt: ev.at, cameAt: now,
		theirs: ev.content.Texts("methods"), seen: [][32]byte{ev.digest()},
	}
	if f.device == "" || f.own && (f.device == us.Device || f.room != "") {
		return f, false
	}
	switch {
	case ev.kind == typeStart && ev.room == "": // requirement 13.9
		f.pending, f.sentAt, f.theirs = ev, now, []string{ev.content.TextOrEmpty("method")}
		return f, true
	case ev.kind != typeRequest, f.room != "" && ev.content.TextOrEmpty("to") != us.User.String():
		return f, false
	}
	age := now.Sub(ev.at)
	return f, age <= lifetime && age >= -fromFuture // requirement 13.6
}

// possible returns why the two sides cannot verify each other now; nil when they can.
func (f *Flow) possible(k Known) error {
	them := k.Them
	switch {
	case !them.Known():
		return core.ErrCannotEncrypt
	case f.own && k.Us.Master == "":
		return core.ErrNoIdentity
	case !f.own && !k.Us.Trusted, !f.own && !k.Us.Signs:
		return core.ErrDeviceNotSigned
	case them.Current == "", them.KeyCollision():
		return core.ErrUnverifiable // single devices of others are not verified
	case !f.own || f.device == "":
		return nil
	}
	dev := them.Device(f.device)
	switch {
	case dev == nil || !dev.Usable():
		return core.ErrUnknownDevice
	case !k.Us.Trusted && !dev.Signed, k.Us.Trusted && !dev.Signed && !k.Us.Signs:
		return core.ErrDeviceNotSigned // neither side has the identity
	}
	return nil
}

// pin fixes what is verified.
func (f *Flow) pin(k Known) {
	f.master, f.ourMaster, f.trusted = k.Them.Current, k.Us.Master, k.Us.Trusted
	f.key = ""
	if dev := k.Them.Device(f.device); dev != nil && dev.Usable() {
		f.key = dev.Ed25519
	}
}

// changed reports whether anything that is being verified is not what it was.
func (f *Flow) changed(k Known) bool {
	now := *f
	now.pin(k)
	return now.master != f.master || now.key != f.key || now.ourMaster != f.ourMaster || f.possible(k) != nil
}

// Accept accepts a request of the other side.
func (f Flow) Accept(k Known) (Flow, Effects, error) {
	if f.state != Requested || !f.incoming {
		return f, Effects{}, stepError(f.state == Ready || f.state == Started || f.state == Compare)
	}
	if err := f.possible(k); err != nil {
		return f, Effects{}, err
	}
	f.looked = true
	f.pin(k)
	f.state = Ready
	f.makeCode(k)
	if f.pending != nil {
		next, eff := f.start(k, f.pending)
		return next, eff, nil
	}
	offered := methods()
	if f.auto {
		offered = []string{methodSAS} // a code needs a person
	}
	return f, Effects{Send: []Message{f.say(typeReady, text("from_device", k.Us.Device.String()), list("methods", offered...))}}, nil
}

// stepError is nil where what is asked for was done already.
func stepError(already bool) error {
	if already {
		return nil
	}
	return core.ErrVerificationStep
}

// Handle takes an event of the other side, or of another device of the own user in a room.
func (f Flow) Handle(k Known, ev *Event) (Flow, Effects) {
	const most = 64
	switch {
	case ev.room != f.room:
		return f, Effects{}
	case f.room != "" && ev.sender == k.Us.User:
		return f.elsewhere(k, ev), Effects{}
	case f.state.Over():
		return f, Effects{}
	case ev.sender != f.user, slices.Contains(f.seen, ev.digest()):
		return f, Effects{} // not of this flow, or it came before
	}
	f.seen = append(slices.Clone(f.seen), ev.digest())
	if len(f.seen) > most {
		return f.cancel(k.Now, codeUnexpected)
	}
	switch ev.kind {
	case typeCancel:
		return f.cancelled(k, ev)
	case typeReady:
		return f.ready(k, ev)
	}
	switch {
	case f.state == Requested:
		return f.cancel(k.Now, codeUnexpected)
	case f.changed(k):
		return f.cancel(k.Now, codeKeyMismatch)
	}
	switch ev.kind {
	case typeStart:
		return f.start(k, ev)
	case typeAccept:
		return f.accepted(k, ev)
	case typeKey:
		return f.keyCame(k, ev)
	case typeMac:
		return f.macCame(k, ev)
	case typeDone:
		return f.doneCame(k)
	}
	return f, Effects{} // later versions may have more
}

// waits reports whether an event waits until something is known of the other side: its server
// may not answer for a moment, which is not a change of its keys.
func (f *Flow) waits(k Known, ev *Event) bool {
	switch {
	case k.Them.Known(), f.state.Over(), ev.sender != f.user, ev.kind == typeCancel:
		return false
	}
	return f.state != Requested || !f.incoming && ev.kind == typeReady
}

// elsewhere takes what another device of the own user says in the room (requirement 13.3).
func (f Flow) elsewhere(k Known, ev *Event) Flow {
	// Also when this device said it: before the process was started again.
	if f.incoming && f.state == Requested && (ev.kind == typeReady || ev.kind == typeCancel) {
		return f.end(k.Now, codeAccepted, false)
	}
	return f
}

// ready takes the other side's acceptance of a request.
func (f Flow) ready(k Known, ev *Event) (Flow, Effects) {
	device := ev.fromDevice()
	switch {
	case device == "":
		return f.cancel(k.Now, codeInvalid)
	case f.incoming:
		return f.cancel(k.Now, codeUnexpected)
	case f.state != Requested && device != f.device:
		return f, Effects{} // it was told by a cancellation, or sees it in the room
	case f.state != Requested:
		return f.cancel(k.Now, codeUnexpected)
	case f.room == "" && !slices.Contains(f.asked, device):
		return f, Effects{} // it was not asked
	}
	f.device, f.theirs = device, ev.content.Texts("methods")
	var eff Effects
	if rest := slices.DeleteFunc(slices.Clone(f.asked), func(d id.DeviceID) bool { return d == device }); len(rest) > 0 {
		eff.Send = []Message{f.message(typeCancel, rest, text("code", codeAccepted), text("reason", reasonOf(codeAccepted)))} // requirement 13.2
	}
	f.asked = []id.DeviceID{device}
	if !slices.Contains(f.theirs, methodSAS) && !slices.Contains(f.theirs, methodReciprocate) {
		next, more := f.cancel(k.Now, codeUnknownMethod)
		return next, eff.and(more)
	}
	if f.possible(k) != nil {
		next, more := f.cancel(k.Now, codeKeyMismatch)
		return next, eff.and(more)
	}
	f.pin(k)
	f.state = Ready
	f.makeCode(k)
	return f, eff
}

func (e Effects) and(more Effects) Effects {
	e.Send = append(slices.Clone(e.Send), more.Send...)
	if more.Target != nil {
		e.Target = more.Target
	}
	return e
}

// target returns what is proved when everything fits.
func (f *Flow) target() *Target {
	switch {
	case !f.own:
		return &Target{User: f.user, Master: f.master}
	case f.trusted:
		return &Target{User: f.user, Master: f.master, Device: f.device, Key: f.key}
	default:
		// What nobody looked at proves nothing here: the homeserver may have made up the identity,
		// with a device of its own. The other side signs this device all the same.
		return &Target{User: f.user, Master: f.master, Adopt: !f.auto}
	}
}

// Recorded returns the flow once its target is recorded, or could not be.
func (f Flow) Recorded(now time.Time, err error) (Flow, Effects) {
	switch {
	case f.state.Over():
		return f, Effects{}
	case err != nil:
		next, eff := f.cancel(now, codeNotSaved)
		return next, eff
	}
	f.state, f.overAt = Done, now
	f.forget()
	return f, Effects{Send: []Message{f.say(typeDone)}}
}

// forget drops the secrets of a flow that is over, and what the other side has made large.
func (f *Flow) forget() {
	f.sas, f.qr, f.pending = sas{}, qr{}, nil
	f.asked, f.theirs, f.seen = nil, nil, nil
}

// doneCame takes the other side's word that it is done.
func (f Flow) doneCame(k Known) (Flow, Effects) {
	switch {
	case f.qr.scanned != nil: // it was asked by its person whether it was scanned
		return f, Effects{Target: f.scannedTarget()}
	case f.state == Confirmed, f.state == Compare && f.sas.shared != nil:
		// It says nothing that the codes do not prove, and overtakes them where both are on their way at once.
		return f, Effects{}
	}
	return f.cancel(k.Now, codeUnexpected)
}
