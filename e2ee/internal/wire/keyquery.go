package wire

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/trustcache"
)

// keyQueryTimeout is how long the homeserver is to wait for other servers. With 10 s, as is usual,
// Dendrite (0.15.2) has nothing left for asking a server that failed in the last minutes: it waits
// that long for something else first.
const keyQueryTimeout = 15 * time.Second

// KeyQuery calls /keys/query for one device, for trustcache.
type KeyQuery struct {
	Homeserver *Homeserver
	Token      secret.String
	User       id.UserID
	// Asserted says that the token is an application service's, which asks as User.
	Asserted bool
}

type queryResponse struct {
	DeviceKeys      map[id.UserID]map[id.DeviceID]json.RawMessage `json:"device_keys"`
	MasterKeys      map[id.UserID]json.RawMessage                 `json:"master_keys"`
	SelfSigningKeys map[id.UserID]json.RawMessage                 `json:"self_signing_keys"`
	UserSigningKeys map[id.UserID]json.RawMessage                 `json:"user_signing_keys"`
	Failures        map[string]json.RawMessage                    `json:"failures"`
}

// maxAskedAlone bounds how many users of one answer are asked about again.
const maxAskedAlone = 32

// QueryKeys implements trustcache.KeyQuerier (requirement 3.11). Users whose devices were signed by
// another identity than the one that is shown are asked about again, each alone: of several users
// of one server Dendrite (0.15.2) shows one as they are, and the others with the identity that it
// saw last.
func (q KeyQuery) QueryKeys(ctx context.Context, users []id.UserID) (*trustcache.QueryResult, error) {
	res, err := q.query(ctx, users)
	if err != nil || len(users) == 1 {
		return res, err
	}
	left := maxAskedAlone
	for _, user := range users {
		if !signedByAnother(res, user) || user.Homeserver() == q.User.Homeserver() {
			continue
		}
		if left--; left < 0 {
			break
		}
		alone, err := q.query(ctx, []id.UserID{user})
		if ctx.Err() != nil || errors.Is(err, trustcache.ErrAsker) {
			return nil, err
		}
		if err == nil && len(alone.DeviceKeys[user]) > 0 && alone.MasterKeys[user] != nil && alone.SelfSigningKeys[user] != nil {
			put(&res.DeviceKeys, user, alone.DeviceKeys[user])
			put(&res.MasterKeys, user, alone.MasterKeys[user])
			put(&res.SelfSigningKeys, user, alone.SelfSigningKeys[user])
		}
	}
	return res, nil
}

func put[V any](m *map[id.UserID]V, user id.UserID, v V) {
	if *m == nil {
		*m = make(map[id.UserID]V, 1)
	}
	(*m)[user] = v
}

// signedByAnother reports whether none of a user's devices has a signature of the self-signing
// key that is shown, and one has a signature of something else than the device. It is a quick
// look, at text that nobody has checked.
func signedByAnother(res *trustcache.QueryResult, user id.UserID) bool {
	var shown struct {
		Keys map[string]string `json:"keys"`
	}
	if json.Unmarshal(res.SelfSigningKeys[user], &shown) != nil || len(shown.Keys) != 1 {
		return false
	}
	another := false
	for _, device := range res.DeviceKeys[user] {
		for _, key := range shown.Keys {
			if bytes.Contains(device, []byte(key)) {
				return false
			}
		}
		// Its key, its signature, and one more.
		another = another || bytes.Count(device, []byte(`"ed25519:`)) > 2
	}
	return another
}

func (q KeyQuery) query(ctx context.Context, users []id.UserID) (*trustcache.QueryResult, error) {
	wanted := make(map[id.UserID][]string, len(users))
	for _, u := range users {
		wanted[u] = []string{}
	}
	var resp queryResponse
	err := q.Homeserver.Call(ctx, q.Token, Request{
		Op: "query device keys", Method: http.MethodPost,
		Path: mautrix.ClientURLPath{"v3", "keys", "query"}, Query: q.as(),
		Body:   map[string]any{"device_keys": wanted, "timeout": keyQueryTimeout.Milliseconds()},
		Result: &resp, Large: true, User: q.User,
	})
	if Status(err) == http.StatusUnauthorized {
		return nil, fmt.Errorf("%w: %w", trustcache.ErrAsker, err)
	}
	if err != nil {
		return nil, err
	}
	return &trustcache.QueryResult{
		DeviceKeys: resp.DeviceKeys, MasterKeys: resp.MasterKeys,
		SelfSigningKeys: resp.SelfSigningKeys, UserSigningKeys: resp.UserSigningKeys,
		Failures: resp.Failures,
	}, nil
}

// as returns the parameters that say who asks.
func (q KeyQuery) as() map[string]string {
	if !q.Asserted {
		return nil
	}
	return map[string]string{"user_id": q.User.String()}
}
