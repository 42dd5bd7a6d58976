package proxy

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors"
	"e2ee-proxy/internal/rediscache"
	"e2ee-proxy/internal/secret"
)

// Rules of this file:
//   - What one replica confirmed holds for all, for no longer than if it had been confirmed here:
//     half of that time in Redis, the rest in memory, so that clocks that differ do not prolong it.
//   - What is dropped here is dropped everywhere. Where a replica cannot hear of it, it remembers
//     nothing from before, and what it asks for itself for unheardAge only.
//   - A token never leaves the process, only its keyed hash.

const (
	// kindToken is about tokens by their keyed hash, kindUser about all tokens of a user.
	kindToken rediscache.Kind = "tokens"
	kindUser  rediscache.Kind = "users"
	// unheardAge is how long an identity is believed by a replica that does not hear what others
	// drop.
	unheardAge = 5 * time.Second
)

// othersIdentities is the cache of all replicas. The zero value is that of a process alone.
type othersIdentities struct {
	cache *rediscache.Cache
	// replicas reports whether there are others, who cannot tell what they drop without a cache.
	replicas bool
	// tell tells the others without the cache; nil if there are none.
	tell func(ctx context.Context, kind, name string)
}

// sharedIdentity is an identity as replicas tell each other.
type sharedIdentity struct {
	User   id.UserID   `json:"user"`
	Device id.DeviceID `json:"device,omitempty"`
	Guest  bool        `json:"guest,omitempty"`
}

func nameOf(hash [32]byte) string { return hex.EncodeToString(hash[:]) }

// share lets the identities be found by other replicas. It is called once, before there are any.
func (c *identities) share(cache *rediscache.Cache, others Owners) {
	c.others = othersIdentities{cache: cache, replicas: others != nil}
	if others != nil {
		c.others.tell = others.TellDropped
	}
	cache.Listen(kindToken, rediscache.Listener{Dropped: c.tokensDropped, Interrupted: c.dropAll})
	cache.Listen(kindUser, rediscache.Listener{Dropped: c.usersDropped})
}

// fromOthers returns an identity that another replica confirmed, and until when it holds. What
// application services assert is asked for by each.
func (c *identities) fromOthers(ctx context.Context, of lookUpKey, token string) (interceptors.Identity, time.Time, bool) {
	var none interceptors.Identity
	if c.others.cache == nil || of.as != (assertedIdentity{}) {
		return none, time.Time{}, false
	}
	found := c.others.cache.Get(ctx, rediscache.Key{Kind: kindToken, Name: nameOf(of.token)})[0]
	var said sharedIdentity
	if found.Value == nil || json.Unmarshal(found.Value, &said) != nil || said.User == "" || c.others.cache.Dropped(kindUser, string(said.User)) {
		return none, time.Time{}, false
	}
	until := found.Made.Add(c.ttl)
	if most := c.now().Add(c.ttl / 2); most.Before(until) {
		until = most
	}
	c.mu.Lock()
	outdated := c.lookingUp[of]
	c.mu.Unlock()
	if outdated || !c.now().Before(until) {
		return none, time.Time{}, false
	}
	return interceptors.Identity{UserID: said.User, DeviceID: said.Device, Guest: said.Guest, Token: secret.NewString(token)}, until, true
}

// forOthers lets the other replicas find what the homeserver has just confirmed.
func (c *identities) forOthers(ctx context.Context, of lookUpKey, who interceptors.Identity, asked time.Time) {
	if c.others.cache == nil || of.as != (assertedIdentity{}) || c.others.cache.Dropped(kindUser, string(who.UserID)) {
		return
	}
	value, err := json.Marshal(sharedIdentity{who.UserID, who.DeviceID, who.Guest})
	if err != nil {
		return
	}
	// The cache refuses what was dropped meanwhile.
	c.others.cache.Put(ctx, rediscache.Entry{
		Key: rediscache.Key{Kind: kindToken, Name: nameOf(of.token)}, Value: value, Made: asked, Until: asked.Add(c.ttl / 2),
	})
}

// drop tells the other replicas: where Redis cannot be told, each of them, since to them Redis may
// be as good as ever. Without a Redis they believe nothing for long.
func (o othersIdentities) drop(kind rediscache.Kind, name string) {
	// They must be told even if whoever caused it is gone. The cache, and the cluster, bound the time.
	if told := o.cache.Drop(context.Background(), kind, name); !told && o.tell != nil {
		o.tell(context.Background(), string(kind), name)
	}
}

// Dropped implements [cluster.Requests]. Redis still has what the other replica could not delete.
func (p *Proxy) Dropped(kind, name string) {
	switch of := rediscache.Kind(kind); of {
	case kindToken:
		p.identities.tokensDropped([]string{name})
		p.identities.others.cache.Drop(context.Background(), of, name)
	case kindUser:
		p.identities.usersDropped([]string{name})
		p.identities.others.cache.Drop(context.Background(), of, name)
	}
}

// notUnheard shortens the time for which an identity is believed where no other replica could say
// that it holds no longer.
func (c *identities) notUnheard(until time.Time) time.Time {
	if _, listening := c.others.cache.Listening(); listening || !c.others.replicas {
		return until
	}
	if most := c.now().Add(unheardAge); most.Before(until) {
		return most
	}
	return until
}

// tokensDropped is called with what another replica dropped.
func (c *identities) tokensDropped(names []string) {
	for _, name := range names {
		hash, err := hex.DecodeString(name)
		if err == nil && len(hash) == len([32]byte{}) {
			c.dropHere([32]byte(hash), "")
		}
	}
}

func (c *identities) usersDropped(names []string) {
	for _, name := range names {
		c.dropUserHere(id.UserID(name))
	}
}

// dropAll is called when other replicas may have dropped anything.
func (c *identities) dropAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for of := range c.lookingUp {
		c.lookingUp[of] = true
	}
	c.known.Purge()
}
