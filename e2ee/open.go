package e2ee

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"maunium.net/go/mautrix/crypto/olm"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/ownbackup"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/parallel"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// eventJob is one event on its way through Open.
type eventJob struct {
	room    id.RoomID
	event   strictjson.Object
	eventID id.EventID
	sender  id.UserID
	ts      int64
	outer   strictjson.Object // content as the server sent it
	ref     store.SessionRef
	cipher  string // empty: not encrypted

	redeliver bool
	order     Order
	wait      time.Duration
	hold      bool
	session   *inboundSession
	index     uint32
	name      id.UserID // the owner's name under which its index counts
	payload   strictjson.Object
	clearType string
	err       error
	code      trustcache.Code // why it cannot be decrypted
	// held is the user of whom more must become known before a withheld event can be shown;
	// empty otherwise.
	held id.UserID
}

// Reasons why an event is not decrypted.
var (
	errNoKey    = errors.New("no key")
	errTooEarly = errors.New("the key starts later")
	errReplay   = errors.New("the index was used by another event")
	errFailed   = errors.New("cannot be decrypted")
	errOurs     = errors.New("something of ours failed")
)

// Open decrypts and judges a batch of events, also those in clear, and returns one Opened
// for each Incoming, in order. It takes a few queries and one write per batch, whatever its
// size, and waits for keys only as Incoming.Wait allows. An error means that events to be
// shown later could not be stored, or that the client is gone: the client must not get the
// response, but repeat its request.
func (d *Device) Open(ctx context.Context, in []Incoming) ([]Opened, error) {
	out, jobs, by := d.open(ctx, in)
	if ctx.Err() != nil { // the client is gone, and repeats its request
		return nil, context.Cause(ctx)
	}
	if err := d.megolmState.remember(ctx, in, jobs, out, by); err != nil {
		return nil, err
	}
	return out, nil
}

// open is Open without storing events to be delivered again.
func (d *Device) open(ctx context.Context, in []Incoming) (out []Opened, jobs []*eventJob, by *judgement) {
	out, jobs = make([]Opened, len(in)), make([]*eventJob, len(in))
	keys := d.megolmState.keysTaken()
	parallel.Each(len(in), func(i int) { jobs[i] = parseEventJob(in[i]) })
	var sealed []*eventJob
	for i, job := range jobs {
		if job == nil { // our parser refuses it: it stays as it came (attack A26)
			out[i] = Opened{Event: in[i].Event, Hidden: d.eng.opts.Undecryptable != UndecryptableEvent}
			continue
		}
		if job.cipher != "" && job.err == nil {
			sealed = append(sealed, job)
		}
	}
	d.megolmState.decryptAll(ctx, sealed)
	d.megolmState.decryptAll(ctx, d.fetchMissing(ctx, sealed))
	by, err := d.judgementFor(ctx, jobs)
	if err != nil { // nothing can be judged, so nothing is shown
		d.megolmState.failAll(sealed, err)
		by = &judgement{policy: d.core.Env.Policy()}
	}
	by.keys = keys
	parallel.Each(len(jobs), func(i int) {
		if jobs[i] != nil {
			out[i] = d.judge(jobs[i], by)
		}
	})
	return out, jobs, by
}

// fetchMissing fetches the missing keys of events from the backup. It returns the events to
// decrypt again: those that may wait, and whose fetch has ended.
func (d *Device) fetchMissing(ctx context.Context, jobs []*eventJob) []*eventJob {
	var missing []*eventJob
	var keys []ownbackup.WantedKey
	for _, job := range jobs {
		if errors.Is(job.err, errNoKey) || errors.Is(job.err, errTooEarly) {
			missing, keys = append(missing, job), append(keys, ownbackup.WantedKey{Ref: job.ref, Wait: job.wait})
		}
	}
	ended := d.backups.Fetch(ctx, keys)
	ready := slices.DeleteFunc(missing, func(job *eventJob) bool { return job.wait <= 0 || !ended[job.ref] })
	for _, job := range ready {
		job.err, job.session = nil, nil
	}
	return ready
}

// parseEventJob parses an event strictly; nil when it is malformed.
func parseEventJob(in Incoming) *eventJob {
	event, err := strictjson.Parse(in.Event)
	if err != nil {
		return nil
	}
	job := &eventJob{room: in.RoomID, event: event, redeliver: in.Redeliver, order: in.Order, wait: in.Wait, hold: in.Hold}
	sender, ok := event.Text("sender")
	eventType, typed := event.Text("type")
	eventID, _ := event.Text("event_id")
	if !ok || !typed || len(sender) > wire.MaxIDLength || len(eventID) > wire.MaxIDLength {
		return nil
	}
	job.sender, job.eventID, job.clearType = id.UserID(sender), id.EventID(eventID), eventType
	if n, err := strconv.ParseInt(string(event.Get("origin_server_ts")), 10, 64); err == nil {
		job.ts = n
	}
	if claimed, ok := event.Text("room_id"); ok && id.RoomID(claimed) != in.RoomID && in.RoomID != "" {
		job.err = errFailed
	}
	if eventType != "m.room.encrypted" || event.Get("state_key") != nil {
		return job
	}
	if job.outer, err = strictjson.Parse(event.Get("content")); err != nil {
		job.cipher, job.err = "?", strictjson.ErrMalformed
		return job
	}
	if len(job.outer) == 0 {
		return job // redacted
	}
	algorithm, _ := job.outer.Text("algorithm")
	sessionID, _ := job.outer.Text("session_id")
	cipher, ok := job.outer.Text("ciphertext")
	job.ref, job.cipher = store.SessionRef{RoomID: in.RoomID, SessionID: id.SessionID(sessionID)}, cipher
	if eventID == "" || algorithm != wire.AlgorithmMegolm || sessionID == "" || len(sessionID) > wire.MaxIDLength || !ok || cipher == "" {
		job.ref = store.SessionRef{}
		job.cipher, job.err = "?", strictjson.ErrMalformed
	}
	return job
}

// decryptAll decrypts the events that it can and refuses replays.
func (m *megolmState) decryptAll(ctx context.Context, jobs []*eventJob) {
	if len(jobs) == 0 {
		return
	}
	// One batch at a time: indices that another batch reserved are stored when this one
	// checks.
	m.opens.Lock()
	defer m.opens.Unlock()
	if err := m.findSessions(ctx, jobs); err != nil {
		m.failAll(jobs, err)
		return
	}
	workers := min(runtime.GOMAXPROCS(0), len(jobs)/8+1)
	var wg sync.WaitGroup
	for w := range workers {
		lo, hi := len(jobs)*w/workers, len(jobs)*(w+1)/workers
		run := func() {
			work := make(ratchets)
			for _, job := range jobs[lo:hi] {
				job.decrypt(work)
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
	m.refuseReplays(ctx, jobs)
}

// decrypt decrypts one event and checks the payload against it. To find the key only the
// ciphertext's room and session ID are used (requirement 8.6).
func (job *eventJob) decrypt(work ratchets) {
	if job.session == nil {
		job.err = errNoKey
		return
	}
	plain, index, err := work.of(job.session).Decrypt([]byte(job.cipher))
	if err != nil {
		job.err = errFailed
		if errors.Is(err, olm.ErrUnknownMessageIndex) {
			job.err = errTooEarly
		}
		return
	}
	job.index = uint32(index)
	payload, err := strictjson.Parse(plain)
	if err != nil {
		job.err = strictjson.ErrMalformed
		return
	}
	room, _ := payload.Text("room_id")
	clearType, ok := payload.Text("type")
	content := payload.Get("content")
	switch {
	case id.RoomID(room) != job.room: // requirement 8.8
		job.err = strictjson.ErrMalformed
	case !ok || clearType == "" || clearType == "m.room.encrypted" || payload.Get("state_key") != nil: // requirement 8.9
		job.err = strictjson.ErrMalformed
	case len(content) == 0 || content[0] != '{':
		job.err = strictjson.ErrMalformed
	default:
		job.payload, job.clearType = payload, clearType
	}
}

// refuseReplays refuses indices that another event has used (requirement 8.4) and stores
// the new ones, with one write, and one query if any may have been used.
func (m *megolmState) refuseReplays(ctx context.Context, jobs []*eventJob) {
	fresh, refs := m.reserveIndices(jobs)
	if len(fresh) == 0 {
		return
	}
	fail := func(err error) {
		for _, job := range fresh {
			job.session.releaseIndex(job.used())
		}
		m.failAll(jobs, fmt.Errorf("check message indices: %w", err))
	}
	var stored map[store.IndexRef]store.MessageIndex
	if len(refs) > 0 {
		var err error
		if stored, err = m.Env.Store.MessageIndices(ctx, m.acct.Row, m.RowID, refs); err != nil {
			fail(err)
			return
		}
	}
	ch := &store.Changes{}
	for _, job := range fresh {
		ref := indexOf(job.ref, job.name, job.index)
		used, ok := stored[ref]
		if !ok {
			ch.MessageIndices = append(ch.MessageIndices, store.MessageIndex{IndexRef: ref, EventID: job.eventID, Timestamp: job.ts})
		} else if used.EventID != job.eventID || used.Timestamp != job.ts {
			job.err = errReplay
			job.session.recordUsed(job.used(), used.EventID, used.Timestamp)
		}
	}
	if len(ch.MessageIndices) > 0 {
		if err := m.Save(ctx, ch); err != nil {
			fail(err)
			return
		}
	}
	for _, job := range fresh {
		if job.err == nil {
			job.session.recordUsed(job.used(), job.eventID, job.ts)
		}
	}
}

// reserveIndices reserves the indices of events. fresh are the events whose index must be
// stored, and refs are the indices to look up in the store first.
func (m *megolmState) reserveIndices(jobs []*eventJob) (fresh []*eventJob, refs []store.IndexRef) {
	bridges := m.Env.Policy().Bridges
	for _, job := range jobs {
		if job.err != nil {
			continue
		}
		var counts bool
		if job.name, counts = job.session.indexName(job.sender, bridges); !counts {
			continue
		}
		switch job.session.reserveIndex(job.used(), job.eventID, job.ts) {
		case indexReplayed:
			job.err = errReplay
		case indexUnsure:
			fresh = append(fresh, job)
			refs = append(refs, indexOf(job.ref, job.name, job.index))
		case indexNew:
			fresh = append(fresh, job)
		case indexKnown:
		}
	}
	return fresh, refs
}

// used returns the index that the event uses.
func (job *eventJob) used() usedKey { return usedKey{job.name, job.index} }

// failAll leaves events undecrypted because of a failure on our side.
func (m *megolmState) failAll(jobs []*eventJob, cause error) {
	m.Env.Log.Error().Err(cause).Msg("Events are shown undecrypted")
	for _, job := range jobs {
		if job.err == nil {
			job.err, job.payload = errOurs, nil
		}
	}
}
