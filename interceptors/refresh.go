package interceptors

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/http"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/rs/zerolog"

	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/strictjson"
)

// POST refresh returns a new access token for a device, never a new device (requirement
// 22.3). Its request carries no access token, so that the device is found by the refresh
// token, if that was issued through this process; otherwise by the new token's first
// request. Asking the homeserver at once would use the new token, and a client that never
// gets this answer could then not refresh again.

// maxRefreshTokens is how many refresh tokens are remembered.
const maxRefreshTokens = 1 << 16

// refreshTokens maps refresh tokens to devices by a keyed hash. It holds no token.
type refreshTokens struct {
	key   []byte
	known *lru.Cache[[sha256.Size]byte, Identity]
}

func newRefreshTokens() (*refreshTokens, error) {
	known, err := lru.New[[sha256.Size]byte, Identity](maxRefreshTokens)
	if err != nil {
		return nil, fmt.Errorf("make the cache of refresh tokens: %w", err)
	}
	key := make([]byte, sha256.Size)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return &refreshTokens{key: key, known: known}, nil
}

// hash returns the keyed hash of a token.
func (r *refreshTokens) hash(token secret.String) (sum [sha256.Size]byte) {
	mac := hmac.New(sha256.New, r.key)
	_, _ = mac.Write([]byte(token.Reveal())) // a hash never fails
	mac.Sum(sum[:0])
	return sum
}

// remember records the owner of a refresh token.
func (r *refreshTokens) remember(token secret.String, who Identity) {
	if token.IsZero() {
		return
	}
	who.Token = secret.String{}
	r.known.Add(r.hash(token), who)
}

// owner returns the owner of a refresh token. The token stays known: until the new one is
// used, the client may use it again.
func (r *refreshTokens) owner(token secret.String) (Identity, bool) {
	return r.known.Get(r.hash(token))
}

// refreshToken handles [Refresh].
func (s *sessions) refreshToken(x *Exchange) error {
	raw, err := x.ReadObject()
	if err != nil {
		return err
	}
	body, err := exchange.ParseObject(raw)
	if err != nil {
		return err
	}
	x.PutBack(raw)
	resp, err := x.Upstream.Do(x, Change{})
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusOK {
		s.refreshed(x, secret.NewString(body.TextOrEmpty("refresh_token")), exchange.AnswerObject(resp))
	}
	return x.Upstream.Relay(x, resp)
}

// refreshed records a new token. The answer is never held back: the client could not get it
// again.
func (s *sessions) refreshed(x *Exchange, used secret.String, got strictjson.Object) {
	who, known := s.refresh.owner(used)
	if !known || got.TextOrEmpty("access_token") == "" {
		return
	}
	next := secret.NewString(got.TextOrEmpty("refresh_token"))
	if next.IsZero() { // "the old token can be used again"
		next = used
	}
	s.refresh.remember(next, who)
	if who.Guest {
		return
	}
	who.Token = secret.NewString(got.TextOrEmpty("access_token"))
	ctx := context.WithoutCancel(x.Request.Context())
	if err := x.Devices.Refreshed(ctx, who); err != nil {
		zerolog.Ctx(ctx).Error().Err(err).Msg("Failed to record a new access token")
	}
}
