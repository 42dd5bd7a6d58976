package roomkeys

import (
	"context"
	"errors"
	"runtime"
	"slices"

	"maunium.net/go/mautrix/crypto/olm"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/internal/parallel"
	"e2ee-proxy/internal/signkey"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
)

// Event is an encrypted event of a room and, after [Inbound.Decrypt], what became of it.
type Event struct {
	ID         id.EventID
	Sender     id.UserID
	Timestamp  int64
	Ref        store.SessionRef // of its key, with the room that the event is in
	Ciphertext string

	// Type and Payload are those of the clear event; Err is why there is none.
	Type    string
	Payload strictjson.Object
	Err     error

	session *inboundSession
	index   uint32
	hint    uint32    // the index that the ciphertext claims, before it is decrypted
	name    id.UserID // the owner's name under which its index counts
}

// Reasons why an event is not decrypted, beside strictjson.ErrMalformed.
var (
	ErrNoKey    = errors.New("no key")
	ErrTooEarly = errors.New("the key starts later")
	ErrReplayed = errors.New("the index was used by another event")
	ErrFailed   = errors.New("cannot be decrypted")
	ErrOurs     = errors.New("something of ours failed")
)

// Decrypt decrypts the events that it can and refuses replays. What an earlier try found is
// forgotten.
func (in *Inbound) Decrypt(ctx context.Context, events []*Event) {
	in.Prepare(ctx, events)
	in.Settle(ctx, events)
}

// Prepare is the first part of [Inbound.Decrypt], which changes nothing: the events are decrypted,
// but must not be shown before [Inbound.Settle]. It may run while other events are settled.
func (in *Inbound) Prepare(ctx context.Context, events []*Event) {
	if len(events) == 0 {
		return
	}
	for _, ev := range events {
		ev.session, ev.Err = nil, nil
	}
	if err := in.findLocked(ctx, events); err != nil {
		in.Fail(events, err)
		return
	}
	inOrder := byIndex(events)
	by := in.cache.verifiersOf(events, in.Env.Now())
	workers := min(runtime.GOMAXPROCS(0), len(events)/8+1)
	var wg parallel.Group
	for w := range workers {
		lo, hi := len(events)*w/workers, len(events)*(w+1)/workers
		run := func() {
			work := make(ratchets)
			for group := range slices.Chunk(inOrder[lo:hi], together) {
				work.decrypt(group, by)
			}
			work.keep()
		}
		if workers == 1 {
			run()
			continue
		}
		wg.Go(run)
	}
	wg.Wait()
}

// findLocked is findSessions between the uses of indices, so that what is loaded knows of all that
// were stored.
func (in *Inbound) findLocked(ctx context.Context, events []*Event) error {
	in.opens.Lock()
	defer in.opens.Unlock()
	return in.findSessions(ctx, events)
}

// Settle is the second part of [Inbound.Decrypt]: it refuses replays, and stores which indices the
// events use. One batch at a time: indices that another batch reserved are stored when this one
// checks.
func (in *Inbound) Settle(ctx context.Context, events []*Event) {
	if len(events) == 0 {
		return
	}
	in.opens.Lock()
	defer in.opens.Unlock()
	in.refuseReplays(ctx, events)
}

// together is how many events' signatures are checked at a time.
const together = 32

// decrypt decrypts a few events.
func (w ratchets) decrypt(events []*Event, by verifiers) {
	messages := make([]megolm.Message, len(events))
	checks := make([]signkey.Check, len(events))
	for i, ev := range events {
		if ev.session == nil {
			ev.Err = ErrNoKey
			continue
		}
		var err error
		if messages[i], err = megolm.ParseMessage(ev.Ciphertext); err != nil {
			ev.Err = ErrFailed
			continue
		}
		checks[i] = messages[i].Check(by[ev.session])
	}
	valid := signkey.VerifyAll(checks)
	for i, ev := range events {
		switch {
		case ev.Err != nil:
		case !valid[i]:
			ev.Err = ErrFailed
		default:
			ev.open(w.of(ev.session, ev.hint), &messages[i])
		}
	}
}

// open decrypts one event and checks the payload against it. To find the key only the
// ciphertext's room and session ID are used (requirement 8.6).
func (ev *Event) open(own *megolm.Reader, message *megolm.Message) {
	plain, index, err := own.Open(message)
	if err != nil {
		ev.Err = ErrFailed
		if errors.Is(err, olm.ErrUnknownMessageIndex) {
			ev.Err = ErrTooEarly
		}
		return
	}
	ev.index = index
	payload, err := strictjson.Parse(plain)
	if err != nil {
		ev.Err = strictjson.ErrMalformed
		return
	}
	room, _ := payload.Text("room_id")
	clearType, ok := payload.Text("type")
	content := payload.Get("content")
	switch {
	case id.RoomID(room) != ev.Ref.RoomID: // requirement 8.8
		ev.Err = strictjson.ErrMalformed
	case !ok || clearType == "" || clearType == "m.room.encrypted" || payload.Get("state_key") != nil: // requirement 8.9
		ev.Err = strictjson.ErrMalformed
	case len(content) == 0 || content[0] != '{':
		ev.Err = strictjson.ErrMalformed
	default:
		ev.Payload, ev.Type = payload, clearType
	}
}

// Fail leaves events undecrypted because of a failure on our side.
func (in *Inbound) Fail(events []*Event, cause error) {
	in.Env.Log.Error().Err(cause).Msg("Events are shown undecrypted")
	for _, ev := range events {
		if ev.Err == nil {
			ev.Err, ev.Payload = ErrOurs, nil
		}
	}
}
