package proxy

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"e2ee-proxy/interceptors"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/budget"
)

// Rules of this file:
//   - Memory for what a handler holds of a request's body is reserved before it is read, as
//     much as it can need at most: the text and its decoded form.
//   - It is reserved in the name of a user, so that one account leaves enough for the
//     others.
//   - A refusal is 429 M_LIMIT_EXCEEDED with retry_after_ms, which every client knows and
//     repeats; nothing of the request has been done.

// bodyUse is how the handler of a row holds a body. The zero value needs the most memory.
// Without a handler a body streams through and is not held.
type bodyUse int

const (
	// bodyDecoded reads it whole and decodes it in memory.
	bodyDecoded bodyUse = iota
	// bodySpooled puts it into a spool, which has a budget of its own, and reads it there.
	bodySpooled
	// bodyPassed passes it on as it comes, and holds nothing of it: a long poll has it for as
	// long as it waits.
	bodyPassed
	// bodyPeeked has it in memory if it is short, and puts it into a spool otherwise.
	bodyPeeked
	// bodyEdited reads it whole, and sends a part of it on. One that is too large for the memory
	// of a user is refused when it comes, whatever its row allows.
	bodyEdited
	// bodyStreamed changes it while it streams.
	bodyStreamed
)

// spooledCost is the memory that a spooled body needs, whatever its size: the part of the
// spool that is in memory, and the values that are being looked at.
const spooledCost = 4 << 20

// streamedCost is the memory that a body needs that is changed while it streams: the pieces of it
// that are there at once, one of them on its way, the others waiting for their hash.
const streamedCost = (1+interceptors.FilePieces)*mostPiece + 64<<10

// entryCost is the memory for one entry of a body that is edited, of which there are at most
// maxEntries.
const (
	entryCost  = 200
	maxEntries = 50_000
)

// firstReserve is how much of a body of unknown length is reserved at first, in bytes.
const firstReserve = 16 << 10

// cost returns how much memory a body of the given size needs at most.
func (k bodyUse) cost(size int64) int64 {
	switch k {
	case bodySpooled, bodyPeeked:
		return spooledCost
	case bodyStreamed:
		return min(streamedCost, 3*min(size, streamedCost)+64<<10)
	case bodyPassed:
		return 0
	case bodyEdited:
		return 3*size + entryCost*min(size/8, maxEntries)
	case bodyDecoded:
	}
	return interceptors.DecodingCost(size)
}

// checkMemory refuses a table with a body that could never be held.
func checkMemory(rows []*route, l Limits) error {
	var errs []error
	for _, r := range rows {
		if r.run == nil || r.maxBody == noBody {
			continue
		}
		if r.bodyUse == bodyEdited {
			continue
		}
		if r.maxBody == uploadBody && r.bodyUse != bodyStreamed || r.bodyUse.cost(r.maxBody) > min(l.BodyMemory, l.BodyMemoryPerUser) {
			errs = append(errs, fmt.Errorf("%s %s: its body could take more memory than one user may have (limits.body_memory_per_user)", r.method, r.pattern))
		}
	}
	return errors.Join(errs...)
}

// reservation is the memory reserved for one body.
type reservation struct {
	from  *budget.Budget
	owner string
	keeps bodyUse
	// size is how much of the body may be read, cost the memory reserved for that.
	size, cost int64
}

// reserve reserves memory for the body of a request that a handler will read. giveBack must
// be called.
func (p *Proxy) reserve(q *request) (giveBack func(), err error) {
	if q.body == nil {
		return func() {}, nil
	}
	r := &reservation{from: p.memory, owner: p.memoryOwner(q), keeps: q.route.bodyUse}
	size := q.r.ContentLength
	if size < 0 {
		size = min(firstReserve, q.body.size)
	}
	if err := r.extend(size, q.body.size); err != nil {
		return nil, err
	}
	q.body.memory = r
	return func() { r.from.Release(r.owner, r.cost) }, nil
}

// extend reserves memory for size bytes of a body. limit is the route's.
func (r *reservation) extend(size, limit int64) error {
	cost := r.keeps.cost(size)
	switch err := r.from.Take(r.owner, cost-r.cost); {
	case errors.Is(err, budget.ErrNever):
		return apierr.TooLarge(limit)
	case err != nil:
		busy := apierr.LimitExceeded(time.Second)
		busy.Text, busy.Hint = "Too much is being sent at a time.", "Try again in a moment."
		return busy.Because(err)
	}
	r.size, r.cost = size, cost
	return nil
}

// fit returns the part of p into which may be read, after got bytes were read.
func (r *reservation) fit(p []byte, got, limit int64) ([]byte, error) {
	if r == nil {
		return p, nil
	}
	// One more byte shows whether the body has ended.
	if got >= r.size && r.size < limit {
		if err := r.extend(min(2*r.size, limit), limit); err != nil {
			return nil, err
		}
	}
	if room := r.size - got + 1; int64(len(p)) > room {
		p = p[:room]
	}
	return p, nil
}

// memoryOwner returns the name under which memory is reserved: the user, for an application
// service its own user, and the client's address if the user is not known.
func (p *Proxy) memoryOwner(q *request) string {
	switch {
	case q.asserter != "":
		return string(q.asserter)
	case q.who.UserID != "":
		return string(q.who.UserID)
	}
	return networkOf(p.clientAddr(q.r))
}

// clientAddr returns the address of the client, as far as trusted proxies report it.
func (p *Proxy) clientAddr(r *http.Request) netip.Addr {
	addr := peer(r)
	said := strings.Split(strings.Join(r.Header["X-Forwarded-For"], ","), ",")
	for i := len(said) - 2; i >= 0 && p.isTrusted(addr); i-- { // the last is the peer
		next, err := netip.ParseAddr(strings.TrimSpace(said[i]))
		if err != nil {
			break
		}
		addr = next.Unmap()
	}
	return addr
}

// networkOf returns the addresses that one customer usually has: one of IPv4, 2^64 of IPv6.
func networkOf(addr netip.Addr) string {
	if addr.Is6() {
		if prefix, err := addr.WithZone("").Prefix(64); err == nil {
			return prefix.String()
		}
	}
	return addr.String()
}
