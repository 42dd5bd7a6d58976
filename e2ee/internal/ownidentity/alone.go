package ownidentity

import (
	"context"

	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Alone reports whether only the proxy can have signed others' identities for the account:
// there is no identity, or the proxy made it and no other client has shown itself with its
// keys. What it cannot find out counts as no.
func (a *Account) Alone(ctx context.Context, own *trustcache.User) bool {
	if own.Knowledge != trustcache.KnowledgeFresh {
		return false
	}
	if own.Current == "" {
		return true
	}
	made, err := a.Env.Store.Secret(ctx, a.Row, identity.SecretMadeHere)
	if err != nil || string(made.Value.Reveal()) != own.Current.String() {
		return false
	}
	ours, err := a.oursOnly(ctx, own)
	if err == nil && !ours {
		// For good: what that client signed stays when it is gone.
		err = a.Env.Store.Save(ctx, a.Row, 0, &store.Changes{DeleteSecrets: []string{identity.SecretMadeHere}})
	}
	if err != nil {
		a.Env.Log.Warn().Err(err).Msg("Who else has the keys of an identity is not known")
		return false
	}
	return ours
}

// oursOnly reports whether the keys of every device that the identity has signed were made
// here.
func (a *Account) oursOnly(ctx context.Context, own *trustcache.User) (bool, error) {
	stored, err := a.Env.Store.Devices(ctx, a.Row)
	if err != nil {
		return false, err
	}
	ours := make(map[string]bool, len(stored))
	for i := range stored {
		ours[stored[i].Ed25519] = stored[i].State == store.DeviceOurs
	}
	for i := range own.Devices {
		d := &own.Devices[i]
		if !d.Signed || ours[d.Ed25519.String()] {
			continue
		}
		// A device that was logged out is listed for a moment longer.
		was, err := a.Env.Store.Forgotten(ctx, store.PublishedDevice{UserID: own.UserID, DeviceID: d.DeviceID, Ed25519: d.Ed25519.String()})
		if err != nil || !was {
			return false, err
		}
	}
	return true, nil
}
