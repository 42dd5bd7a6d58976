package wire

import (
	"context"
	"encoding/json"
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

// QueryKeys implements trustcache.KeyQuerier (requirement 3.11).
func (q KeyQuery) QueryKeys(ctx context.Context, users []id.UserID) (*trustcache.QueryResult, error) {
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
