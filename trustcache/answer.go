package trustcache

import (
	"bytes"
	"context"
	"slices"

	"e2ee-proxy/store"
)

// applyUpdate applies the answer to a query to a user.
func (w *rowsTx) applyUpdate(ctx context.Context, e *entry, row store.User, up update) error {
	own, before, had := w.t.account.UserID, e.user, w.size()
	refused, refusedIdentity := up.refused, up.refusedIdentity
	if up.passive && slices.Equal(refused, e.refused) && refusedIdentity == e.refusedIdentity {
		up.refused, up.refusedIdentity = nil, false // that was told
	}
	before.giveExceptions(up.devices)
	gone := w.distrusts(before, up.devices)
	identity := up.identity
	signed := false
	if before.Own {
		signed = w.t.holds(identity.Master) || (before.Verified && identity.Master == before.Current)
		w.dropHeld = w.dropHeld || (w.t.holds(before.Current) && identity.Master != before.Current)
	} else if signer := w.ownSigner(); signer != "" {
		signed = masterSignedBy(identity.MasterRaw, own, signer)
		if !signed && identity.Master == before.Master && masterSignedBy(before.MasterRaw, own, signer) {
			// Our signature does not go away because a homeserver leaves it out.
			signed, identity.MasterRaw = true, before.MasterRaw
		}
	}
	row.Master, row.SelfSigning, row.UserSigning = identity.MasterRaw, identity.SelfSigningRaw, identity.UserSigningRaw
	signer := w.ownSigner()
	row, err := w.applyPin(e, row, PinEvent{Kind: PinSeen, Master: identity.Master, SignedByUs: signed})
	if err != nil {
		return err
	}
	if kind := historyKind(before, identity); kind != "" {
		w.ch.UserChanges = append(w.ch.UserChanges, store.UserChange{
			UserID: row.UserID, At: w.t.opts.Now(), Kind: kind,
			Previous: before.SelfSigning.String(), Master: before.Master.String(),
		})
	}
	w.recordDevices(before, up)
	if w.size() == had && sameRow(&e.row, &row) {
		w.touch(e.askedAt(up.asked)) // nothing is new
		return nil
	}
	next := newEntry(own, row, identity, up.devices, gone...).askedAt(up.asked)
	next.refused, next.refusedIdentity = refused, refusedIdentity
	w.set(next)
	if before.Own && signer != w.ownSigner() {
		return w.recheck(ctx)
	}
	return nil
}

// size is how much there is to store and to tell, besides rows of users.
func (w *rowsTx) size() int {
	return len(w.events) + len(w.ch.UserChanges) + len(w.ch.UserDevices) + len(w.ch.DeleteDevices) +
		len(w.ch.Distrusts) + len(w.ch.DeleteDistrusts)
}

// sameRow reports whether two rows of a user are the same.
func sameRow(a, b *store.User) bool {
	return a.UserID == b.UserID && a.Tracked == b.Tracked && a.Outdated == b.Outdated && a.Failures == b.Failures &&
		a.RetryAt.Equal(b.RetryAt) && a.PinnedMaster == b.PinnedMaster && a.Verified == b.Verified && a.WasVerified == b.WasVerified &&
		a.ChangedAt.Equal(b.ChangedAt) && bytes.Equal(a.Master, b.Master) && bytes.Equal(a.SelfSigning, b.SelfSigning) && bytes.Equal(a.UserSigning, b.UserSigning)
}
