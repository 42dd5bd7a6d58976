package native

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/auditing"
	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/e2ee/internal/orgrules"
	"e2ee-proxy/e2ee/internal/rooms"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/audit"
	"e2ee-proxy/internal/rules"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// A client does not know of the devices that it is not shown, so it cannot tell them that
// they get no room key. The proxy does, when an event shows which session is in use, and when
// the client has heard of another such device while it uses the session. It does not know who
// was given the session's key, so everybody is told who could not have been, once.

const (
	// maxLooked is how many sessions are remembered, with when it was last looked who is to be
	// told; the database has who was.
	maxLooked = 50_000
	// lookAgain is when it is looked again in any case: somebody may have come into the room.
	lookAgain = 5 * time.Minute
	// maxAccounts and maxRecent are how many sessions are remembered for when a client hears of
	// other devices: the ones used last.
	maxAccounts, maxRecent = 10_000, 16
	// maxWaiting is how many sessions wait to be told of. What does not fit waits for the
	// session's next event.
	maxWaiting = 1000
	// tellers is how many are told of at the same time, within tellWithin each.
	tellers    = 4
	tellWithin = 2 * time.Minute
	// noteBatch is how many devices one request tells.
	noteBatch = 500
)

// Shared is what all clients of an engine share: the sessions of which devices are told.
type Shared struct {
	looked  *lru.Cache[[32]byte, look]
	waiting chan session
	turns   locks.Turns[[32]byte] // of sessions

	passes *lru.Cache[passKey, pass] // see ruled.go

	mu     sync.Mutex
	recent *lru.Cache[uint64, []session] // by the tenure of the account, the one used last first
	given  *lru.Cache[uint64, uint64]    // by the same, see gives
	gave   uint64
}

// look is by what it was last decided whom to tell of a session.
type look struct {
	tenure  uint64 // of the account
	version uint64 // of what is known of users
	rules   *orgrules.Version
	at      time.Time
}

// NewShared returns it. Run does the work.
func NewShared() (*Shared, error) {
	looked, err := lru.New[[32]byte, look](maxLooked)
	if err != nil {
		return nil, fmt.Errorf("remember sessions: %w", err)
	}
	recent, err := lru.New[uint64, []session](maxAccounts)
	if err != nil {
		return nil, fmt.Errorf("remember sessions: %w", err)
	}
	passes, err := lru.New[passKey, pass](maxLooked)
	if err != nil {
		return nil, fmt.Errorf("remember rooms: %w", err)
	}
	given, err := lru.New[uint64, uint64](maxAccounts)
	if err != nil {
		return nil, fmt.Errorf("remember what was given: %w", err)
	}
	return &Shared{looked: looked, recent: recent, passes: passes, given: given, waiting: make(chan session, maxWaiting)}, nil
}

// session is a Megolm session that a client uses.
type session struct {
	client *Client
	room   id.RoomID
	id     id.SessionID
	hash   [32]byte
}

// SentEncrypted is called with the session of an event that the homeserver has accepted. It
// does not wait.
func (c *Client) SentEncrypted(room id.RoomID, of id.SessionID) {
	if c.device == "" || c.query.Asserted || of == "" || len(of) > wire.MaxIDLength {
		return
	}
	if c.Env.Policy().Native != trustcache.ModeEnforce && !c.Env.Rules.Now().Any() {
		return
	}
	s := session{c, room, of, c.hash(room, of)}
	c.shared.use(s)
	c.shared.lookAt(s)
}

// heardOfDevices has it looked again who is to be told of the sessions that the account's
// clients use: there are other devices.
func (c *Client) heardOfDevices() {
	c.shared.mu.Lock()
	recent, _ := c.shared.recent.Get(c.Tenure)
	c.shared.mu.Unlock()
	for _, s := range recent {
		c.shared.lookAt(s)
	}
}

// use remembers a session as the one that its device uses in its room.
func (sh *Shared) use(s session) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	before, _ := sh.recent.Get(s.client.Tenure)
	if len(before) > 0 && before[0].hash == s.hash && before[0].client.query.Token == s.client.query.Token {
		return
	}
	now := append(make([]session, 0, maxRecent), s)
	for _, old := range before {
		if (old.room != s.room || old.client.device != s.client.device) && len(now) < maxRecent {
			now = append(now, old)
		}
	}
	sh.recent.Add(s.client.Tenure, now)
}

// lookAt has it looked who is to be told of a session, unless nothing has changed since.
func (sh *Shared) lookAt(s session) {
	now := look{s.client.Tenure, s.client.Tracker.Version(), s.client.Env.Rules.Now(), s.client.Env.Now()}
	if was, ok := sh.looked.Get(s.hash); ok && was.tenure == now.tenure && was.version == now.version && was.rules == now.rules && now.at.Sub(was.at) < lookAgain {
		return
	}
	sh.looked.Add(s.hash, now)
	select {
	case sh.waiting <- s:
	default:
		sh.looked.Remove(s.hash)
	}
}

// hash names a session of this device, or one of the devices that were told of it, in the
// database, where nobody can read which it is.
func (c *Client) hash(room id.RoomID, of id.SessionID, told ...string) [32]byte {
	text := fmt.Sprintf("%d %q %q %q %q", c.Row.ID, c.device, room, of, told)
	return c.Env.Store.Hash("session that devices were told of", []byte(text))
}

// Run tells devices until ctx ends.
func (sh *Shared) Run(ctx context.Context, group func(func())) {
	for range tellers {
		group(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case s := <-sh.waiting:
					sh.work(ctx, s)
				}
			}
		})
	}
}

func (sh *Shared) work(ctx context.Context, s session) {
	ctx, cancel := context.WithTimeout(ctx, tellWithin)
	defer cancel()
	give, err := sh.turns.Take(ctx, s.hash)
	if err != nil {
		sh.looked.Remove(s.hash)
		return
	}
	defer give()
	if err := s.client.Env.Survive(func() error { return s.tell(ctx) }); err != nil {
		sh.looked.Remove(s.hash) // the session's next event tries again
		if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
			s.client.Env.Log.Info().Err(err).Msg("Devices that get no room key could not be told so; it is tried again with the next event")
		}
	}
}

// tell tells the devices that cannot have got a session's key and were not told yet.
func (s session) tell(ctx context.Context) error {
	c := s.client
	row, err := c.Env.Store.Device(ctx, c.Row, c.device)
	if errors.Is(err, store.ErrNotFound) {
		return nil // it was logged out
	}
	if err != nil {
		return fmt.Errorf("load device: %w", err)
	}
	users, err := rooms.ReadRecipients(ctx, c.call, s.room)
	if err != nil {
		return err
	}
	if !slices.Contains(users, c.User) {
		return errLags
	}
	known, err := c.known(ctx, users)
	if err != nil {
		return err
	}
	own := known[c.User].Device(c.device)
	if own == nil || !own.Usable() {
		return nil // nobody can take the note for this device's
	}
	by := c.Env.Rules.Now()
	notes, err := s.notes(ctx, by, known, own)
	if err != nil {
		return err
	}
	hashes := make([][32]byte, len(notes))
	for i := range notes {
		hashes[i] = notes[i].hash
	}
	seen, err := c.Env.Store.Seen(ctx, c.Row, row.ID, hashes)
	if err != nil {
		return err
	}
	notes = slices.DeleteFunc(notes, func(n note) bool { return seen[n.hash] })
	for some := range slices.Chunk(notes, noteBatch) {
		if err := s.send(ctx, some); err != nil {
			return err
		}
		told := store.Changes{Audit: s.record(by, known, some)}
		for i := range some {
			told.Seen = append(told.Seen, store.SeenMessage{Digest: some[i].hash, At: c.Env.Now()})
		}
		if err := s.store(ctx, row.ID, &told); err != nil {
			return err
		}
	}
	return nil
}

// errLags means that the homeserver's list of members misses who has just sent something.
var errLags = errors.New("the homeserver's list of the room's members is out of date")

// record returns the record that devices get no key of the session.
func (s session) record(by *orgrules.Version, known map[id.UserID]*trustcache.User, notes []note) []*audit.Record {
	log := auditing.BeginFor(s.client.Env, s.client.User, s.client.device, audit.KindNativeSend).InRoom(s.room, s.id, 0).Under(by.Policy())
	for i := range notes {
		one := &notes[i]
		user := known[one.to.UserID]
		log.Add(user, user.Device(one.to.DeviceID), audit.Withheld, string(one.code), one.rule)
	}
	return log.Records()
}

// store records who was told.
func (s session) store(ctx context.Context, device int64, told *store.Changes) error {
	ctx, cancel := core.Detach(ctx, saveWithin)
	defer cancel()
	if err := s.client.Env.Store.Save(ctx, s.client.Row, device, told); err != nil {
		return fmt.Errorf("store who was told: %w", err)
	}
	return nil
}

// saveWithin bounds one write.
const saveWithin = 10 * time.Second

// note is what one device is told.
type note struct {
	to     store.DeviceRef
	code   event.RoomKeyWithheldCode
	rule   string // why, in the audit log
	reason string // why, for a person
	from   id.Curve25519
	hash   [32]byte // by which the database knows that it was told
}

// notes returns who is told why, in a fixed order.
func (s session) notes(ctx context.Context, by *orgrules.Version, known map[id.UserID]*trustcache.User, own *trustcache.Device) ([]note, error) {
	var out []note
	var questions []rules.Question
	var asked []*trustcache.Device
	mode := s.client.Env.Policy().Native
	for _, user := range known {
		for i := range user.Devices {
			d := &user.Devices[i]
			decision := trustcache.Native(user, d, mode)
			switch code := codeFor(decision.Reason); {
			case d.DoNotEncrypt || d.UserID == own.UserID && d.DeviceID == own.DeviceID:
			case decision.Outcome == trustcache.NativeShow && by.Any():
				questions, asked = append(questions, orgrules.AnyKeyQuestion(s.client.User, d.UserID, user, d)), append(asked, d)
			case decision.Outcome != trustcache.NativeShow && code != "":
				out = append(out, s.note(own, d, code, string(decision.Reason), reason(code)))
			}
		}
	}
	answers, err := by.Ask(ctx, questions)
	if err != nil {
		return nil, fmt.Errorf("ask the organisation's rules: %w", err)
	}
	for i := range answers {
		if answers[i].Effect != rules.Allow {
			out = append(out, s.note(own, asked[i], codeUnauthorised, orgrules.Reason(answers[i]), answers[i].Reason))
		}
	}
	slices.SortFunc(out, func(a, b note) int {
		return slices.Compare([]string{a.to.UserID.String(), a.to.DeviceID.String()}, []string{b.to.UserID.String(), b.to.DeviceID.String()})
	})
	return out, nil
}

// codeUnauthorised is the code for a device that the organisation's rules deny the key.
const codeUnauthorised event.RoomKeyWithheldCode = "m.unauthorised"

// note returns the note for a device.
func (s session) note(own, d *trustcache.Device, code event.RoomKeyWithheldCode, rule, reason string) note {
	hash := s.client.hash(s.room, s.id, d.UserID.String(), d.DeviceID.String(), d.Curve25519.String(), string(code))
	return note{store.DeviceRef{UserID: d.UserID, DeviceID: d.DeviceID}, code, rule, reason, own.Curve25519, hash}
}

// codeFor returns what a device is told that is hidden for a reason; nothing where it could
// read nothing anyway.
func codeFor(why trustcache.ShareReason) event.RoomKeyWithheldCode {
	if why == trustcache.ReasonUnsigned || why == trustcache.ReasonDehydrated {
		return event.RoomKeyWithheldUnverified
	}
	if why == trustcache.ReasonDistrusted {
		return event.RoomKeyWithheldBlacklisted
	}
	return ""
}

// send tells some devices. The transaction ID makes a repetition harmless.
func (s session) send(ctx context.Context, notes []note) error {
	messages := make(map[id.UserID]map[id.DeviceID]map[string]string)
	for _, one := range notes {
		if messages[one.to.UserID] == nil {
			messages[one.to.UserID] = make(map[id.DeviceID]map[string]string)
		}
		messages[one.to.UserID][one.to.DeviceID] = map[string]string{
			"algorithm": wire.AlgorithmMegolm, "code": string(one.code), "reason": one.reason,
			"room_id": s.room.String(), "sender_key": one.from.String(), "session_id": s.id.String(),
		}
	}
	all := sha256.New()
	for i := range notes {
		_, _ = all.Write(notes[i].hash[:]) // a hash takes everything
	}
	txn := "e2ee-proxy-withheld-" + hex.EncodeToString(all.Sum(nil)[:12])
	return s.client.call(ctx, wire.Request{
		Op: "tell devices that they get no key", Method: http.MethodPut,
		Path: mautrix.ClientURLPath{"v3", "sendToDevice", event.ToDeviceRoomKeyWithheld.Type, txn},
		Body: map[string]any{"messages": messages},
	})
}

// reason returns the text for a code; clients show it only for codes that they do not know.
func reason(code event.RoomKeyWithheldCode) string {
	if code == event.RoomKeyWithheldBlacklisted {
		return "The sender does not trust this device."
	}
	return "The device has not been confirmed by its owner."
}
