package rewrite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/bundled"
	"e2ee-proxy/interceptors/internal/engineerr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/interceptors/internal/filter"
	"e2ee-proxy/internal/jsonscan"
	"e2ee-proxy/internal/spool"
)

// Options are those of all rewriters of a process.
type Options struct {
	// ShowEncryption shows m.room.encryption to clients.
	ShowEncryption bool
	// Spools keep bodies between the two passes.
	Spools exchange.Spools
}

// Rewriter rewrites the bodies of one shape. It may be used by many at once.
type Rewriter struct {
	shape   Shape
	alone   []bool // which of its places are that of one event
	options Options
	places  *jsonscan.Node // of a body that are looked at
	graphs  graphs
}

// New returns a rewriter of bodies of a shape.
func New(shape Shape, o Options) *Rewriter {
	r := &Rewriter{shape: shape, options: o, places: shape.graph(), graphs: newGraphs()}
	for _, p := range shape.Places {
		r.alone = append(r.alone, !strings.HasSuffix("/"+p.Path, "/*"))
	}
	return r
}

// Pass is what is known of one body before it is read.
type Pass struct {
	// Owner is in whose name the body is kept.
	Owner id.UserID
	// Size is how large it is, as far as that is known.
	Size int64
	// Room is the room in the request's path, with [RoomOfPath].
	Room id.RoomID
	// Event is the event in the request's path, see [Place.Asked].
	Event id.EventID
	// Backward reports whether the newest event of a page comes first, see [Paged].
	Backward bool
	// Filter is applied to what is shown in lists; nil: nothing. An event alone is what the
	// client asked for.
	Filter *filter.Filter
	// Rest is the order of events of which the body does not show whether they are older than
	// the encryption of their room.
	Rest  e2ee.Order
	Hooks Hooks
}

// Body is a body that was read, and is kept until it is written.
type Body struct {
	rewriter   *Rewriter
	pass       Pass
	kept, plan *spool.Spool

	shown histories
	past  history     // of the body as a whole, or of the current entry
	rooms []id.RoomID // without duplicates
	marks []id.RoomID // the rooms of the entries that have marks, in order
	plain bool
	// listed is how many events are in lists of timelines.
	listed int
}

// Close gives back what the body was kept in.
func (b *Body) Close() error { return errors.Join(b.kept.Close(), b.plan.Close()) }

// Size returns how large the body is, in bytes.
func (b *Body) Size() int64 { return b.kept.Size() }

// Bytes returns the body as it is written, in memory. Its error is for the client.
func (b *Body) Bytes(ctx context.Context, o Output) ([]byte, error) {
	var out bytes.Buffer
	if err := b.writer(o).run(ctx, &out); err != nil {
		return nil, fmt.Errorf("rewrite the response: %w", err)
	}
	return out.Bytes(), nil
}

// Rooms returns the rooms that events of the body are in, without duplicates, unless there
// are very many. With [RoomOfName] there are none.
func (b *Body) Rooms() []id.RoomID { return b.rooms }

// Plain reports whether the body has something in clear that should not be, if its room is
// encrypted.
func (b *Body) Plain() bool { return b.plain }

// Listed returns how many events the homeserver put into lists of timelines.
func (b *Body) Listed() int { return b.listed }

// ShowsEncryption reports whether a body without entries has an encryption event, and whether
// the oldest of them is the one that made the room encrypted.
func (b *Body) ShowsEncryption() (shows, first bool) { return b.past.found, b.past.first }

// AllBefore records that everything in a body without an encryption event is older than the
// encryption of its room.
func (b *Body) AllBefore() { b.shown.rest = e2ee.OrderBefore }

// ForgetKnown drops what the body claims about since when rooms are encrypted, for those that
// were known to be before. Its error is for the client.
func (b *Body) ForgetKnown(ctx context.Context, dev Device) error {
	rooms := b.shown.withEncryption()
	if len(rooms) == 0 {
		return nil
	}
	if _, err := dev.LoadRooms(ctx, rooms); err != nil {
		return engineerr.For(fmt.Errorf("look up rooms: %w", err))
	}
	b.shown.dropKnown(func(room id.RoomID) bool { return dev.KnownEncrypted(room) })
	return nil
}

// Shown returns an event of a timeline as the client's filter shows it; nil when it does not
// pass.
func (b *Body) Shown(room id.RoomID, event []byte) []byte {
	if event = b.filtered(room, event); event == nil {
		return nil
	}
	return b.chosenFields(event)
}

// ShownState is like Shown for an event of a room's state.
func (b *Body) ShownState(room id.RoomID, event []byte) []byte {
	h, err := b.rewriter.graphs.headOf(event)
	if err != nil || !b.pass.Filter.State().Passes(room, h.filtered()) {
		return nil
	}
	return b.chosenFields(event)
}

// filtered returns an event of a timeline as it is shown, unless the client's filter does not
// let it pass: then nil.
func (b *Body) filtered(room id.RoomID, event []byte) []byte {
	if b.pass.Filter == nil {
		return event
	}
	h, err := b.rewriter.graphs.headOf(event)
	if err != nil || !b.pass.Filter.Timeline().Passes(room, h.filtered()) {
		return nil
	}
	return event
}

// chosenFields applies event_fields. An event with an ambiguous type stays whole.
func (b *Body) chosenFields(event []byte) []byte {
	if b.pass.Filter == nil || b.pass.Filter.Tree == nil {
		return event
	}
	out, err := b.pass.Filter.Tree.Project(event)
	if err != nil {
		return event
	}
	return out
}

// Strip removes from an event what only the proxy may say. The event is valid JSON.
func (b *Body) Strip(event []byte) ([]byte, error) {
	return b.rewriter.graphs.clean(event, !b.rewriter.options.ShowEncryption)
}

// AnnotationPaths returns the paths of the proxy's annotation, which no filter leaves out.
func AnnotationPaths() [][]string {
	return [][]string{{bundled.Decrypted}, {"unsigned", nameTrust}}
}

// stopError is an error that is not about the body as JSON.
type stopError struct{ err error }

func (e *stopError) Error() string { return e.err.Error() }
func (e *stopError) Unwrap() error { return e.err }

// Failure returns the client's error for a body that could not be read: it cannot be kept, is
// no JSON, or ended early.
func Failure(err error) error {
	if stopped, ok := errors.AsType[*stopError](err); ok {
		if said, ok := errors.AsType[*apierr.Error](stopped.err); ok {
			return said
		}
	}
	if full := exchange.SpoolFailure(err); full != nil {
		return full
	}
	var syntax *jsonscan.SyntaxError
	if errors.As(err, &syntax) || errors.Is(err, jsonscan.ErrDepth) {
		return Unreadable(err)
	}
	return apierr.Unread(err)
}

// Unreadable returns the client's error for an answer that is not what it should be.
func Unreadable(err error) error {
	return apierr.NewError(http.StatusBadGateway, apierr.CodeUnknown, "The homeserver's response cannot be read.").Because(err)
}
