package store

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store/internal/sqlio"
)

// A room key for a thousand devices moves a thousand Olm sessions by one step each. Writing
// their rows again takes several times as long as all the rest, so that what moved is written
// as one sealed text beside them. Whoever reads sessions reads these too.
var (
	putOlmSteps  = sqlio.KeepRows("olm_steps", sqlio.OfDevice, []string{"step"}, []string{"sealed_steps"})
	dropOlmSteps = sqlio.WhereIn("DELETE FROM olm_steps", sqlio.OfDevice, "step", "")
)

const (
	selectOlmSteps   = "SELECT step, sealed_steps FROM olm_steps WHERE account = $1 AND device = $2 ORDER BY step"
	selectOlmChanges = "SELECT olm_changes FROM devices WHERE account = $1 AND id = $2"
	countOlmChange   = "UPDATE devices SET olm_changes = olm_changes + 1 WHERE account = $1 AND id = $2"
	expectOlmChange  = countOlmChange + " AND olm_changes = $3"
)

// OlmSteps is how far some Olm sessions of a device have moved, as e2ee wrote it. Steps is
// sealed. What has a higher number is later.
type OlmSteps struct {
	Number int64
	Steps  secret.Bytes
}

func olmStepsRow(device, step int64) []string {
	return []string{strconv.FormatInt(device, 10), strconv.FormatInt(step, 10)}
}

func (b *saver) olmSteps(all []OlmSteps) {
	p := &sqlio.Args{}
	for _, s := range all {
		p.Num(s.Number)
		p.Bytes(b.acct.seal(s.Steps.Reveal(), "olm_steps", "sealed_steps", olmStepsRow(b.dev, s.Number)...))
	}
	b.ratchet = b.ratchet || len(all) > 0
	b.listOfDevice("steps of Olm sessions", putOlmSteps, p)
}

func (b *saver) deleteOlmSteps(steps []int64) {
	b.listOfDevice("delete steps of Olm sessions", dropOlmSteps, nums(steps))
}

// countOlm counts a change of the device's Olm sessions. With expected it is refused if there
// were others since: somebody else has moved them.
func (b *saver) countOlm(c *Changes) {
	if len(c.OlmSessions)+len(c.DeleteOlmSessions)+len(c.OlmSteps)+len(c.DeleteOlmSteps) == 0 && !c.DiscardSent {
		return
	}
	p := b.scope()
	text, want := countOlmChange, sqlio.Want{Rows: 1, Else: fmt.Errorf("%w: device", ErrNotFound)}
	if c.OlmChanges != nil {
		p.Num(*c.OlmChanges)
		text, want.Else = expectOlmChange, fmt.Errorf("%w: Olm sessions", ErrStale)
	}
	b.step("count changes of Olm sessions", p, func(ctx context.Context, t *sqlio.Tx) error {
		return t.Must(ctx, want, text, p.Vals...)
	})
}

// OlmSteps reads how far the device's Olm sessions have moved since their rows were written,
// in order, and how often they were changed.
func (db *DB) OlmSteps(ctx context.Context, acct *Account, device int64) (all []OlmSteps, changes int64, err error) {
	// The number first: what is changed after it was read makes it too low, which is refused.
	err = db.reader.Query(ctx, selectOlmChanges, []any{acct.ID, device}, func(r *sql.Rows) error { return r.Scan(&changes) })
	if err == nil {
		err = db.reader.Query(ctx, selectOlmSteps, []any{acct.ID, device}, func(r *sql.Rows) error {
			var s OlmSteps
			var sealed []byte
			if err := r.Scan(&s.Number, &sealed); err != nil {
				return err
			}
			var err error
			s.Steps, err = acct.open(sealed, "olm_steps", "sealed_steps", olmStepsRow(device, s.Number)...)
			all = append(all, s)
			return err
		})
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read steps of Olm sessions: %w", err)
	}
	return all, changes, nil
}
