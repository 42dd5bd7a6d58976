package e2ee

import (
	"context"

	"e2ee-proxy/e2ee/internal/roomevents"
)

// Prepared is a batch of events that are decrypted, and not judged yet.
type Prepared = roomevents.Prepared

// Open opens a batch of events in one go, see [roomevents.Reader.Open].
func (d *Device) Open(ctx context.Context, in []Incoming) ([]Opened, error) {
	return d.OpenPrepared(ctx, d.Prepare(ctx, in))
}

// Prepare begins to open a batch, see [roomevents.Reader.Prepare].
func (d *Device) Prepare(ctx context.Context, in []Incoming) *Prepared {
	return d.reader().Prepare(ctx, in)
}

// Settle stores which indices a batch that was prepared uses. They come in order.
func (d *Device) Settle(ctx context.Context, p *Prepared) { d.reader().Settle(ctx, p) }

// OpenPrepared is the rest of Open, in the same order.
func (d *Device) OpenPrepared(ctx context.Context, p *Prepared) ([]Opened, error) {
	out, err := d.reader().OpenPrepared(ctx, p)
	d.searchAgain()
	if err != nil {
		return nil, err
	}
	d.hearOpened(p.Incoming(), out)
	return out, d.countUnread(ctx, p.Incoming(), out)
}
