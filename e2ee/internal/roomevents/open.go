package roomevents

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"e2ee-proxy/e2ee/attachment"
	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/files"
	"e2ee-proxy/e2ee/internal/late"
	"e2ee-proxy/e2ee/internal/ownbackup"
	"e2ee-proxy/e2ee/internal/rollout"
	"e2ee-proxy/e2ee/internal/roomkeys"
	"e2ee-proxy/e2ee/internal/rooms"
	"e2ee-proxy/e2ee/internal/searchindex"
	"e2ee-proxy/internal/parallel"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Reader opens the room events of a device: it decrypts and judges them, and says what the
// client is shown. It has no state.
type Reader struct {
	*core.Device
	inbound       *roomkeys.Inbound
	late          *late.Events
	backups       *ownbackup.Backup
	rooms         *rooms.Table
	rollout       *rollout.Account
	search        *searchindex.Account
	files         *files.Account
	undecryptable Undecryptable
}

// New returns the reader of a device, with the parts of it that it asks.
func New(dev *core.Device, keys *roomkeys.Inbound, late *late.Events, backups *ownbackup.Backup, table *rooms.Table, counted *rollout.Account, search *searchindex.Account, known *files.Account, undecryptable Undecryptable) *Reader {
	return &Reader{dev, keys, late, backups, table, counted, search, known, undecryptable}
}

// Open decrypts and judges a batch of events, also those in clear, and returns one Opened
// for each Incoming, in order. It takes a few queries and two writes per batch, whatever its
// size, and waits for keys only as Incoming.Wait allows. An error means that events to be
// shown later could not be stored, that a page's could not be opened by a fault of ours, or that
// the client is gone: the client must not get the response, but repeat its request.
func (r *Reader) Open(ctx context.Context, in []Incoming) ([]Opened, error) {
	return r.OpenPrepared(ctx, r.Prepare(ctx, in))
}

// Prepared is a batch of events that are decrypted, and nothing else: what may be shown of them is
// not known yet.
type Prepared struct {
	// Wait is the [Incoming.Wait] of all of them, when it was not known earlier.
	Wait time.Duration

	in      []Incoming
	jobs    []*eventJob
	sealed  []*eventJob
	keys    int // how often room keys had been stored
	settled bool
}

// Incoming returns the events as they came.
func (p *Prepared) Incoming() []Incoming { return p.in }

// Prepare is the first of the three parts of Open. It changes nothing, so that it can go on while
// it is stored what became of the events before.
func (r *Reader) Prepare(ctx context.Context, in []Incoming) *Prepared {
	p := &Prepared{in: in, jobs: make([]*eventJob, len(in)), keys: r.inbound.Stored()}
	parallel.Each(len(in), func(i int) { p.jobs[i] = parseEventJob(in[i]) })
	for _, job := range p.jobs {
		if job != nil && job.Ciphertext != "" && job.Err == nil {
			p.sealed = append(p.sealed, job)
		}
	}
	r.inbound.Prepare(ctx, eventsOf(p.sealed))
	return p
}

// Settle is the second part of Open: it stores which indices the events use. Batches come here in
// the order of their events.
func (r *Reader) Settle(ctx context.Context, p *Prepared) {
	if !p.settled {
		p.settled = true
		r.inbound.Settle(ctx, eventsOf(p.sealed))
	}
}

// OpenPrepared is the rest of Open, in the same order.
func (r *Reader) OpenPrepared(ctx context.Context, p *Prepared) ([]Opened, error) {
	if p.Wait > 0 {
		for _, job := range p.sealed {
			job.wait = p.Wait
		}
	}
	out, by := r.open(ctx, p)
	if ctx.Err() != nil { // the client is gone, and repeats its request
		return nil, context.Cause(ctx)
	}
	if err := faultOfPage(p.in, p.jobs); err != nil {
		return nil, err
	}
	events := judgedEvents(p.in, p.jobs, out)
	if err := r.late.Remember(ctx, events, by.basis()); err != nil {
		return nil, err
	}
	for i := range events {
		out[i].Hidden = events[i].Hidden
	}
	if err := r.late.Redacted(ctx, redactedIn(p.jobs)); err != nil {
		return nil, err
	}
	return out, nil
}

// faultOfPage returns an error if an event of a page could not be opened by a fault of ours.
func faultOfPage(in []Incoming, jobs []*eventJob) error {
	for i, job := range jobs {
		if in[i].Page && job != nil && errors.Is(job.Err, roomkeys.ErrOurs) {
			return fmt.Errorf("open an event of a page: %w", job.Err)
		}
	}
	return nil
}

// open is OpenPrepared without storing events to be delivered again.
func (r *Reader) open(ctx context.Context, p *Prepared) (out []Opened, by *judgement) {
	out = make([]Opened, len(p.in))
	for i, job := range p.jobs {
		if job == nil { // our parser refuses it: it stays as it came (attack A26)
			out[i] = Opened{Event: p.in[i].Event, Hidden: r.undecryptable != UndecryptableEvent}
		}
	}
	r.Settle(ctx, p)
	r.inbound.Decrypt(ctx, eventsOf(r.fetchMissing(ctx, p.sealed)))
	r.showFiles(ctx, p.sealed)
	by, err := r.judgementFor(ctx, p.jobs)
	if err != nil { // nothing can be judged, so nothing is shown
		r.inbound.Fail(eventsOf(p.sealed), err)
		by = r.newJudgement(ctx)
	}
	by.keys = p.keys
	parallel.Each(len(p.jobs), func(i int) {
		if p.jobs[i] != nil {
			out[i] = r.judge(p.jobs[i], by)
			out[i].ID = p.jobs[i].ID
		}
	})
	r.index(ctx, p.jobs, out)
	return out, by
}

// fetchMissing fetches the missing keys of events from the backup. It returns the events to
// decrypt again: those that may wait, and whose fetch has ended.
func (r *Reader) fetchMissing(ctx context.Context, jobs []*eventJob) []*eventJob {
	var missing []*eventJob
	var keys []ownbackup.WantedKey
	for _, job := range jobs {
		if errors.Is(job.Err, roomkeys.ErrNoKey) || errors.Is(job.Err, roomkeys.ErrTooEarly) {
			missing, keys = append(missing, job), append(keys, ownbackup.WantedKey{Ref: job.Ref, Wait: job.wait})
		}
	}
	ended := r.backups.Fetch(ctx, keys)
	return slices.DeleteFunc(missing, func(job *eventJob) bool { return job.wait <= 0 || !ended[job.Ref] })
}

// showFiles puts into decrypted events the URIs by which the client can have their files. If
// what is new cannot be stored, the events that name files are not shown yet.
func (r *Reader) showFiles(ctx context.Context, jobs []*eventJob) {
	var naming []*eventJob
	var contents []*json.RawMessage
	for _, job := range jobs {
		if job.Err != nil {
			continue
		}
		if content := job.Payload.Get("content"); attachment.MayHave(content) {
			naming, contents = append(naming, job), append(contents, &content)
		}
	}
	if len(naming) == 0 {
		return
	}
	if err := r.files.Show(ctx, r.RowID, contents); err != nil {
		r.inbound.Fail(eventsOf(naming), err)
		return
	}
	for i, job := range naming {
		job.Payload = job.Payload.Set("content", *contents[i])
	}
}

// OpenAgain opens events that were kept to be shown later, and returns one [late.Event] for
// each, in order.
func (r *Reader) OpenAgain(ctx context.Context, rows []store.PendingEvent) ([]late.Event, late.Basis) {
	in := make([]Incoming, len(rows))
	for i := range rows {
		in[i] = Incoming{RoomID: rows[i].RoomID, Event: rows[i].Event}
	}
	p := r.Prepare(ctx, in)
	out, by := r.open(ctx, p)
	return judgedEvents(in, p.jobs, out), by.basis()
}

// judgedEvents returns what became of each event of a batch.
func judgedEvents(in []Incoming, jobs []*eventJob, out []Opened) []late.Event {
	events := make([]late.Event, len(in))
	for i, job := range jobs {
		events[i] = late.Event{Raw: in[i].Event, Shown: out[i].Event, Decrypted: out[i].Decrypted, Hidden: out[i].Hidden}
		if job != nil {
			events[i].Event = &job.Event
			events[i].Redeliver, events[i].Hold, events[i].Page = job.redeliver, job.hold, in[i].Page
			events[i].Withheld, events[i].Unknown = job.code == trustcache.CodeWithheld, job.held
		}
	}
	return events
}

// basis returns what late events are told of a judgement.
func (j *judgement) basis() late.Basis {
	return late.Basis{Keys: j.keys, Users: j.users, Rules: j.rules}
}
