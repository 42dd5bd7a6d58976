package native

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/rooms"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// A client does not know of the devices that it is not shown, so it cannot tell them that
// they get no room key. The proxy does, when an event shows which session is in use. It does
// not know who was given the session's key, so everybody is told who could not have been.

const (
	// maxTold is how many sessions are remembered in memory; the database has the others.
	maxTold = 50_000
	// maxWaiting is how many sessions wait to be told of. What does not fit waits for the
	// session's next event.
	maxWaiting = 1000
	// tellers is how many are told of at the same time, within tellWithin each.
	tellers    = 4
	tellWithin = 2 * time.Minute
	// noteBatch is how many devices one request tells.
	noteBatch = 500
)

// Shared is what all clients of an engine share: the sessions that devices were told of, or
// are to be.
type Shared struct {
	told    *lru.Cache[[32]byte, struct{}]
	waiting chan session
}

// NewShared returns it. Run does the work.
func NewShared() (*Shared, error) {
	told, err := lru.New[[32]byte, struct{}](maxTold)
	if err != nil {
		return nil, fmt.Errorf("remember sessions: %w", err)
	}
	return &Shared{told, make(chan session, maxWaiting)}, nil
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
	if c.device == "" || c.query.Asserted || of == "" || len(of) > wire.MaxIDLength || c.Env.Policy().Native != trustcache.ModeEnforce {
		return
	}
	s := session{c, room, of, c.hash(room, of)}
	if known, _ := c.shared.told.ContainsOrAdd(s.hash, struct{}{}); known {
		return
	}
	select {
	case c.shared.waiting <- s:
	default:
		c.shared.told.Remove(s.hash)
	}
}

// hash names a session of this device in the database, where nobody can read which it is.
func (c *Client) hash(room id.RoomID, of id.SessionID) [32]byte {
	text := fmt.Sprintf("%d %q %q %q", c.Row.ID, c.device, room, of)
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
	if err := s.tell(ctx); err != nil {
		sh.told.Remove(s.hash) // the session's next event tries again
		if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
			s.client.Env.Log.Info().Err(err).Msg("Devices that get no room key could not be told so; it is tried again with the next event")
		}
	}
}

// tell tells the devices that cannot have got a session's key, unless that was done.
func (s session) tell(ctx context.Context) error {
	c := s.client
	row, err := c.Env.Store.Device(ctx, c.Row, c.device)
	if errors.Is(err, store.ErrNotFound) {
		return nil // it was logged out
	}
	if err != nil {
		return fmt.Errorf("load device: %w", err)
	}
	seen, err := c.Env.Store.Seen(ctx, c.Row, row.ID, [][32]byte{s.hash})
	if err != nil || seen[s.hash] {
		return err
	}
	users, err := rooms.ReadRecipients(ctx, c.call, s.room)
	if err != nil {
		return err
	}
	known, err := c.known(ctx, append(users, c.User))
	if err != nil {
		return err
	}
	own := known[c.User].Device(c.device)
	if own == nil || !own.Usable() {
		return nil // nobody can take the note for this device's
	}
	notes := s.notes(known, own)
	for n := 0; len(notes) > 0; n++ {
		some := notes[:min(len(notes), noteBatch)]
		notes = notes[len(some):]
		if err := s.send(ctx, n, some); err != nil {
			return err
		}
	}
	told := store.SeenMessage{Digest: s.hash, At: c.Env.Now()}
	saving, cancel := core.Detach(ctx, saveWithin)
	defer cancel()
	if err := c.Env.Store.Save(saving, c.Row, row.ID, &store.Changes{Seen: []store.SeenMessage{told}}); err != nil {
		return fmt.Errorf("store who was told: %w", err)
	}
	return nil
}

// saveWithin bounds one write.
const saveWithin = 10 * time.Second

// note is what one device is told.
type note struct {
	to   store.DeviceRef
	code event.RoomKeyWithheldCode
	from id.Curve25519
}

// notes returns who is told why, in a fixed order.
func (s session) notes(known map[id.UserID]*trustcache.User, own *trustcache.Device) []note {
	var out []note
	mode := s.client.Env.Policy().Native
	for _, user := range known {
		for i := range user.Devices {
			d := &user.Devices[i]
			decision := trustcache.Native(user, d, mode)
			if decision.Outcome == trustcache.NativeShow || d.DoNotEncrypt || d.UserID == own.UserID && d.DeviceID == own.DeviceID {
				continue
			}
			if code := codeFor(decision.Reason); code != "" {
				out = append(out, note{store.DeviceRef{UserID: d.UserID, DeviceID: d.DeviceID}, code, own.Curve25519})
			}
		}
	}
	slices.SortFunc(out, func(a, b note) int {
		return slices.Compare([]string{a.to.UserID.String(), a.to.DeviceID.String()}, []string{b.to.UserID.String(), b.to.DeviceID.String()})
	})
	return out
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
func (s session) send(ctx context.Context, n int, notes []note) error {
	messages := make(map[id.UserID]map[id.DeviceID]map[string]string)
	for _, one := range notes {
		if messages[one.to.UserID] == nil {
			messages[one.to.UserID] = make(map[id.DeviceID]map[string]string)
		}
		messages[one.to.UserID][one.to.DeviceID] = map[string]string{
			"algorithm": wire.AlgorithmMegolm, "code": string(one.code), "reason": reason(one.code),
			"room_id": s.room.String(), "sender_key": one.from.String(), "session_id": s.id.String(),
		}
	}
	txn := "e2ee-proxy-withheld-" + hex.EncodeToString(s.hash[:12]) + "-" + strconv.Itoa(n)
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
