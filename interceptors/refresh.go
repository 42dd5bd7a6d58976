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

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/strictjson"
)

// POST refresh gives a device a new access token, never a new device (requirement
// 22.3). Its request carries no access token, so that the device is found by the refresh
// token, when that was given through this process; otherwise the new token's first
// request says whose it is. Asking the homeserver at once would use the new token, and a
// client that never gets this answer could then not refresh again.

// maxRefreshTokens bounds the refresh tokens that are remembered.
const maxRefreshTokens = 1 << 16

// refreshTokens finds the device of a refresh token under a keyed hash. It holds no token.
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

// hash is the name under which a token is known.
func (r *refreshTokens) hash(token secret.String) (sum [sha256.Size]byte) {
	mac := hmac.New(sha256.New, r.key)
	_, _ = mac.Write([]byte(token.Reveal())) // a hash never fails
	mac.Sum(sum[:0])
	return sum
}

// remember notes whose a refresh token is.
func (r *refreshTokens) remember(token secret.String, who Identity) {
	if token.IsZero() {
		return
	}
	who.Token = secret.String{}
	r.known.Add(r.hash(token), who)
}

// owner tells whose a refresh token is. The token stays known: until the new one is
// used, the client may use it again.
func (r *refreshTokens) owner(token secret.String) (Identity, bool) {
	return r.known.Get(r.hash(token))
}

// refreshToken handles [Refresh].
func (s *sessions) refreshToken(x *Exchange) error {
	raw, err := readObject(x)
	if err != nil {
		return err
	}
	body, err := parseObject(raw)
	if err != nil {
		return err
	}
	putBack(x, raw)
	resp, err := x.Upstream.Do(x, Change{})
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusOK {
		s.refreshed(x, secret.NewString(body.TextOrEmpty("refresh_token")), answer(resp))
	}
	return x.Upstream.Relay(x, resp)
}

// refreshed makes a new token known. The answer is never held back: the client could
// not get it again.
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
