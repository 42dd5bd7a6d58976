package controlroom

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"e2ee-proxy/e2ee/internal/core"
)

// Update is what a sync response says of the room.
type Update struct {
	*View
	// Leave reports whether the room belongs to those that the user has left.
	Leave bool
	// State and Timeline are its events; Limited says that there are older ones that the client
	// was not shown, which end at Before.
	State, Timeline []json.RawMessage
	Limited         bool
	Before          int64
	// Ephemeral and AccountData are further events of the room.
	Ephemeral, AccountData []json.RawMessage
	// Whole reports whether the client gets the room as one that is new to it.
	Whole bool
}

// Waiting reports whether there is something new for a device that syncs from a token.
func (a *Account) Waiting(ctx context.Context, dev *core.Device, since string) (bool, error) {
	if !a.On(dev) {
		return false, nil
	}
	r, err := a.read(ctx)
	if err != nil {
		return false, err
	}
	if r.Opened == 0 || r.hasSecrets(a.secretsSince()) {
		return true, nil
	}
	_, news, err := a.news(ctx, r)
	if err != nil || len(news) > 0 {
		return err == nil, err
	}
	now := r.mark()
	have := a.has(r, dev.ID, since)
	return have != now && (!r.Left || have.Opened != 0 && !have.Left), nil
}

// Sync says what is new of the room for a device that syncs from a token, in an answer that the
// homeserver ends with next; nil when nothing is. What a device has is known by the tokens alone,
// so there is nothing while the homeserver's stands still. If a client was given next before, it
// stands for what was shown then, and what came since is shown with a later one.
func (a *Account) Sync(ctx context.Context, dev *core.Device, token, next string) (*Update, error) {
	if !a.On(dev) || next == "" {
		return nil, nil
	}
	if next == token {
		return nil, a.Of(dev).ForgetOldSecrets(ctx)
	}
	waiting, err := a.Waiting(ctx, dev, token)
	if err != nil {
		return nil, err
	}
	if !waiting {
		r, err := a.read(ctx)
		if err != nil {
			return nil, err
		}
		have := a.has(r, dev.ID, token)
		if token == "" || have == r.Seen[dev.ID].Have { // it is known what the client has
			a.tell(dev.ID, next, have)
			return nil, nil
		}
	}
	var have, to Mark
	room, err := a.change(ctx, dev, func(r *Room) error {
		if err := a.tellWarnings(ctx, r); err != nil {
			return err
		}
		have = a.has(r, dev.ID, token)
		to = r.mark()
		if was, known := a.told(r, dev.ID, next); known {
			to = was
		}
		if next == Plain(token) { // the client has more than that token says: it had a mark
			to = have
		}
		r.shown(dev.ID, Sent{next, to}, token != "", have, a.Env.Now().UnixMilli())
		return nil
	})
	if err != nil {
		return nil, err
	}
	a.tell(dev.ID, next, to)
	return a.update(&View{room, a.User, dev.ID}, have, to), nil
}

// Waiting reports whether there is something new for a client that comes with a token.
func (h Handle) Waiting(ctx context.Context, token string) (bool, error) {
	return h.a.Waiting(ctx, h.dev, token)
}

// Stream says what is new of the room for a client that comes with a token, beside its syncs: in an
// answer of the homeserver's that ends with next. See [Account.Sync].
func (h Handle) Stream(ctx context.Context, token, next string) (*Update, error) {
	return h.a.Sync(ctx, h.dev, token, next)
}

// Alone says what is new of the room for a client that asks for nothing else, and with which token
// its answer ends: one of the room's own.
func (h Handle) Alone(ctx context.Context, token string) (u *Update, end string, err error) {
	waiting, err := h.Waiting(ctx, token)
	if err != nil || !waiting {
		return nil, token, err
	}
	r, err := h.a.read(ctx)
	if err != nil {
		return nil, "", err
	}
	end = fmt.Sprintf("control-room-%d-%d-%d-%d", r.Opened, r.Last, r.Read, r.DataSeq)
	u, err = h.a.Sync(ctx, h.dev, token, end)
	return u, end, err
}

// update says what a client that has a state of the room is told up to another; nil when nothing
// is. A room that was left or opened again after that is told of when its turn comes.
func (a *Account) update(v *View, have, to Mark) *Update {
	if have == to || to.Opened != v.Opened || to.Left != v.Left {
		return nil
	}
	v = v.upTo(to)
	u := &Update{View: v, Leave: v.Left}
	if v.Left {
		if have.Opened == 0 || have.Left {
			return nil
		}
		u.Timeline = []json.RawMessage{v.member()}
		return u
	}
	lines := slices.Clone(v.Lines)
	if u.Whole = have.Opened != to.Opened || have.Left; u.Whole {
		lines = v.History()
		u.State = v.State()
		if more := len(lines) - maxShown; more > 0 {
			lines, u.Limited = lines[more:], true
		}
		have.Read, have.Data = 0, 0
	} else {
		lines = slices.DeleteFunc(lines, func(l Line) bool { return l.Seq <= have.Last })
		u.Limited = v.Dropped > have.Last
	}
	u.Before = v.Last + 1
	if len(lines) > 0 {
		u.Before = lines[0].Seq
	}
	for i := range lines {
		u.Timeline = append(u.Timeline, v.Event(&lines[i]))
	}
	v.addRead(u, have)
	if have.Data != to.Data {
		for typ, content := range v.Data {
			u.AccountData = append(u.AccountData, object("type", typ, "content", content))
		}
	}
	return u
}

// upTo returns the room as it was in an earlier state, as far as that matters to a client that is
// shown what came since with its next answer.
func (v *View) upTo(to Mark) *View {
	if v.mark() == to {
		return v
	}
	r := v.clone()
	r.Lines = slices.DeleteFunc(r.Lines, func(l Line) bool { return l.Seq > to.Last })
	r.Last, r.Read = to.Last, to.Read
	return &View{r, v.User, v.Device}
}

// addRead adds how far the user has read, if that is news.
func (v *View) addRead(u *Update, have Mark) {
	event := v.readEvent()
	if have.Read == v.Read || event == "" {
		return
	}
	receipt := object(string(event), object("m.read", object(string(v.User), object("ts", v.ReadAt))))
	u.Ephemeral = append(u.Ephemeral, object("type", "m.receipt", "content", receipt))
	u.AccountData = append(u.AccountData, object("type", "m.fully_read", "content", object("event_id", string(event))))
}

// news returns the warnings that hold, and those of them that were not said yet.
func (a *Account) news(ctx context.Context, r *Room) (all, news []notice, err error) {
	pending, err := a.warnings(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("look for warnings: %w", err)
	}
	for i := range pending {
		n := notice{pending[i].ID, pending[i].Code, pending[i].UserID, pending[i].Message}
		all = append(all, n)
		if !slices.Contains(r.Told, n.id) {
			news = append(news, n)
		}
	}
	return all, news, nil
}

// tellWarnings opens a room that there is none of, and says in it what was not said yet. A
// room that was left is opened again by that.
func (a *Account) tellWarnings(ctx context.Context, r *Room) error {
	all, news, err := a.news(ctx, r)
	if err != nil {
		return err
	}
	now := a.Env.Now().UnixMilli()
	if r.Opened == 0 {
		r.open(now)
		r.add(a.line(r, Text(textWelcome)))
	}
	if len(news) > 0 && r.Left {
		r.open(now)
	}
	for i := range news {
		r.add(a.line(r, Text(news[i].text())))
	}
	if len(news) > 0 || len(all) != len(r.Told) {
		r.Told = r.Told[:0]
		for i := range all {
			r.Told = append(r.Told, all[i].id)
		}
	}
	return nil
}
