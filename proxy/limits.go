package proxy

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"maunium.net/go/mautrix/id"
)

// Body limits of the route table, in bytes. An event is at most 64 KiB (Client-Server API,
// "Size limits"), but white space and escapes count here. Bodies that a handler decodes are
// small; large ones are streamed or spooled.
const (
	noBody      = 0
	sessionBody = 16 << 10 // a login, from anybody
	smallBody   = 64 << 10
	eventBody   = 256 << 10
	roomBody    = 1 << 20  // a new room with the events of its first state
	pictureBody = 8 << 20  // a photograph
	largeBody   = 16 << 20 // streamed only
	importBody  = 80 << 20 // a key export file, as JSON
	uploadBody  = -1       // Limits.MaxUpload
)

// lane is a class of requests with a common limit: requests that wait for the same kind of
// thing. It also decides how long the homeserver may take for the first byte of its answer.
type lane int

const (
	laneQuick lane = iota // answered from the homeserver's database
	laneSend              // puts an event into a room
	laneSlow              // may wait for other homeservers
	lanePoll              // waits for something to happen
	laneMedia
	laneAuth // costs a password hash
	laneOwn  // the proxy's own API
	lanes    // the number of lanes
)

func (l lane) String() string {
	switch l {
	case laneQuick:
		return "quick"
	case laneSend:
		return "send"
	case laneSlow:
		return "slow"
	case lanePoll:
		return "poll"
	case laneMedia:
		return "media"
	case laneAuth:
		return "auth"
	case laneOwn:
		return "own"
	case lanes:
	}
	return "none"
}

// LaneLimit limits how many requests of a lane are in flight. Zero means no limit.
type LaneLimit struct {
	// Total counts all clients.
	Total int
	// PerIdentity counts one device of one user, where the proxy knows it.
	PerIdentity int
}

// Limits are the limits on requests. The zero value of a field means its default.
type Limits struct {
	// MaxUpload is the size limit of an upload in bytes; default 1 GiB. The homeserver has its own.
	MaxUpload int64
	// BodyMemory is how much memory the bodies that handlers decode may need, all together, in
	// bytes; default 256 MiB. BodyMemoryPerUser is how much of it one user may need, or one
	// address without a known user; default 64 MiB.
	BodyMemory, BodyMemoryPerUser int64
	// Quick, Send, Slow, Poll, Media, Auth and Own limit the lanes.
	Quick, Send, Slow, Poll, Media, Auth, Own LaneLimit
}

func (l Limits) withDefaults() Limits {
	if l.MaxUpload == 0 {
		l.MaxUpload = 1 << 30
	}
	if l.BodyMemory == 0 {
		l.BodyMemory = 256 << 20
	}
	if l.BodyMemoryPerUser == 0 {
		l.BodyMemoryPerUser = min(64<<20, l.BodyMemory)
	}
	set := func(to *LaneLimit, total, perIdentity int) {
		if *to == (LaneLimit{}) {
			*to = LaneLimit{Total: total, PerIdentity: perIdentity}
		}
	}
	set(&l.Quick, 8192, 0)
	set(&l.Send, 2048, 64)
	set(&l.Slow, 4096, 0)
	set(&l.Poll, 65536, 16)
	set(&l.Media, 2048, 0)
	set(&l.Auth, 256, 0)
	set(&l.Own, 64, 4)
	return l
}

func (l Limits) lane(which lane) LaneLimit {
	switch which {
	case laneQuick:
		return l.Quick
	case laneSend:
		return l.Send
	case laneSlow:
		return l.Slow
	case lanePoll:
		return l.Poll
	case laneMedia:
		return l.Media
	case laneAuth:
		return l.Auth
	case laneOwn:
		return l.Own
	case lanes:
	}
	return LaneLimit{Total: 1}
}

// limiter counts the requests in flight.
type limiter struct {
	limits [lanes]LaneLimit
	total  [lanes]atomic.Int64

	mu  sync.Mutex
	per map[holder]int
}

type holder struct {
	lane   lane
	user   id.UserID
	device id.DeviceID
}

func newLimiter(l Limits) *limiter {
	m := &limiter{per: make(map[holder]int)}
	for i := range lanes {
		m.limits[i] = l.lane(i)
	}
	return m
}

// enter takes a place in a lane; if it reports true, leave must return it.
func (m *limiter) enter(l lane) bool {
	n := m.total[l].Add(1)
	if limit := m.limits[l].Total; limit > 0 && n > int64(limit) {
		m.total[l].Add(-1)
		return false
	}
	return true
}

func (m *limiter) leave(l lane) { m.total[l].Add(-1) }

// enterAs takes a place among those of one device; leaveAs returns it.
func (m *limiter) enterAs(h holder) bool {
	limit := m.limits[h.lane].PerIdentity
	if limit <= 0 {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.per[h] >= limit {
		return false
	}
	m.per[h]++
	return true
}

func (m *limiter) leaveAs(h holder) {
	if m.limits[h.lane].PerIdentity <= 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.per[h]--; m.per[h] <= 0 {
		delete(m.per, h)
	}
}

var errSlowBody = errors.New("the request body came too slowly")

// body limits the size of a request's body and how slowly it may come, and records the
// error of reading it: the transport reports that like an error of the homeserver.
type body struct {
	from io.ReadCloser
	// size is the limit in bytes, left how much may still come.
	size, left int64
	// memory is reserved before anything is read; nil when nothing of the body is held.
	memory   *reservation
	deadline readDeadline
	ended    outcome
}

// outcome is how reading a body ended. The transport may still read while the handler, whose
// answer came early, looks at it.
type outcome struct {
	mu  sync.Mutex
	err error
}

// set records the end; nil is none.
func (o *outcome) set(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.err = err
}

// get returns the end; nil is none yet.
func (o *outcome) get() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// readDeadline sets the connection's read deadline: never more than idle from now, and
// never later than a client at the minimum rate needs.
type readDeadline struct {
	conn *http.ResponseController
	idle time.Duration
	// strict reports whether a deadline that passes breaks the body, also while nobody reads
	// (HTTP/2), so that there is one only while somebody does.
	strict bool
	start  time.Time
	got    int64
}

// minRate is the slowest average rate of a body, in bytes a second.
const minRate = 1 << 10

func (b *body) Read(p []byte) (int, error) {
	if err := b.ended.get(); err != nil {
		return 0, err
	}
	b.deadline.extend()
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	p, err := b.memory.fit(p, b.size-b.left, b.size)
	if err != nil {
		b.ended.set(err)
		return 0, err
	}
	n, err := b.from.Read(p)
	b.deadline.got += int64(n)
	if b.deadline.strict {
		b.deadline.clear()
	}
	if b.left -= int64(n); b.left < 0 {
		n, err = n-1, &http.MaxBytesError{Limit: b.size}
	}
	if errors.Is(err, io.EOF) {
		b.deadline.clear()
	}
	if err != nil {
		var timeout interface{ Timeout() bool }
		if errors.As(err, &timeout) && timeout.Timeout() {
			err = errSlowBody
		}
		b.ended.set(err)
	}
	return n, err
}

// abandonWait is how long the server may wait when it drops a body that nobody has read.
const abandonWait = 5 * time.Second

// abandon limits how long the server goes on reading a body that nobody wants.
func (q *request) abandon() {
	if !q.hasBody {
		return
	}
	if ended := q.body.end(); !errors.Is(ended, io.EOF) && !errors.Is(ended, errSlowBody) {
		_ = q.w.conn.SetReadDeadline(time.Now().Add(abandonWait)) // as above
	}
}

func (b *body) Close() error { return b.from.Close() }

// failure returns why the body could not be read; nil when it could, or was not read.
func (b *body) failure() error {
	if err := b.end(); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// end returns how reading ended; nil when it has not, or there is no body.
func (b *body) end() error {
	if b == nil {
		return nil
	}
	return b.ended.get()
}

func (d *readDeadline) extend() {
	now := time.Now()
	if d.start.IsZero() {
		d.start = now
	}
	at := now.Add(d.idle)
	if rate := d.start.Add(2*d.idle + time.Duration(d.got/minRate)*time.Second); rate.Before(at) {
		at = rate
	}
	_ = d.conn.SetReadDeadline(at) // not every connection has deadlines; then there is none
}

// clear removes the deadline at the end of the body: while the request is answered, the
// server reads on to notice that the client is gone, and an old deadline would look like
// that.
func (d *readDeadline) clear() { _ = d.conn.SetReadDeadline(time.Time{}) }
