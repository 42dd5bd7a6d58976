package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/backoff"
	"e2ee-proxy/store"
)

// Rules of this file:
//   - Whose an account is, is asked where it is known: the engine for its own, then the database.
//     Where it was last is tried first, because who is asked says if that is wrong.
//   - A request keeps its account until it has ended, so that a process that is ending gives the
//     account away as soon as its last request has.

// ErrUnsettled means that an account is about to change its owner: it is to be asked again.
var ErrUnsettled = errors.New("the account is on its way to another replica")

// ownWait is how long a request waits here for an account that is being given away.
const ownWait = 5 * time.Second

// Looks returns how long to wait before it is looked again where an account is.
func Looks() backoff.Range {
	return backoff.Range{First: 20 * time.Millisecond, Last: 250 * time.Millisecond}
}

// Enter begins a request of a user: afterwards the account is this process's own, and stays it
// until leave is called, unless the process is taken for dead. The error is a [store.ElsewhereError]
// with a replica that has the account, which may be wrong by now, see [Node.Moved], or
// [ErrUnsettled].
func (n *Node) Enter(ctx context.Context, user id.UserID) (leave func(), err error) {
	if p := n.believed(user); p != nil {
		return nil, &store.ElsewhereError{Replica: p.Replica}
	}
	return n.Accept(ctx, user)
}

// Accept is like [Node.Enter] for what another replica has sent here: where the account was last
// is not believed.
func (n *Node) Accept(ctx context.Context, user id.UserID) (leave func(), err error) {
	asking, cancel := context.WithTimeout(ctx, ownWait)
	defer cancel()
	leave, err = n.o.Accounts.Own(asking, user)
	switch {
	case err == nil:
		return leave, nil
	case errors.Is(err, store.ErrElsewhere):
		return nil, n.elsewhere(ctx, user, err)
	case asking.Err() != nil && ctx.Err() == nil:
		return nil, fmt.Errorf("%w: %w", ErrUnsettled, err)
	}
	return nil, fmt.Errorf("find out whose the account is: %w", err)
}

// elsewhere returns the replica that has an account, which is not this one's, and remembers it.
func (n *Node) elsewhere(ctx context.Context, user id.UserID, why error) error {
	var to store.Replica
	if said, ok := errors.AsType[*store.ElsewhereError](why); ok {
		to = said.Replica
	}
	if to.Name == "" {
		owner, err := n.o.Directory.Owner(ctx, user)
		switch {
		case err != nil:
			return fmt.Errorf("find out whose the account is: %w", err)
		case owner.State != store.OwnerElsewhere:
			return ErrUnsettled
		}
		to = owner.Replica
	}
	p := n.peer(to)
	if p == nil || p.gone.Err() != nil {
		return ErrUnsettled
	}
	n.owners.Add(user, p.Name)
	return &store.ElsewhereError{Replica: p.Replica}
}

// believed returns the replica that had an account when somebody was last asked; nil if it is
// not known, or does not live any more.
func (n *Node) believed(user id.UserID) *peer {
	name, ok := n.owners.Get(user)
	if !ok {
		return nil
	}
	p := n.named(name)
	if p == nil {
		n.owners.Remove(user)
	}
	return p
}

// Moved forgets that an account is at a replica, which says that it is not, or does not answer.
func (n *Node) Moved(user id.UserID, from store.Replica) {
	if name, ok := n.owners.Peek(user); ok && name == from.Name {
		n.owners.Remove(user)
	}
}

type requestKey struct{}

// request is what a context says of the request that something is done for.
type request struct {
	id string
	// holds is the user whose account the request keeps here.
	holds id.UserID
}

// WithRequest returns a context for what is done for a request: its ID, and the user whose account
// it keeps here; empty if it keeps none.
func WithRequest(ctx context.Context, requestID string, holds id.UserID) context.Context {
	return context.WithValue(ctx, requestKey{}, request{requestID, holds})
}

func requestOf(ctx context.Context) request {
	r, ok := ctx.Value(requestKey{}).(request)
	if !ok || !isName(r.id) {
		r.id = "none"
	}
	return r
}
