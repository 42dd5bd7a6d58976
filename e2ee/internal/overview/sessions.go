package overview

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/audit"
	"e2ee-proxy/internal/parallel"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

const (
	// endWithin bounds the end of an account's sessions, which goes on when the caller is gone.
	endWithin = 2 * time.Minute
	// endAtOnce is how many are ended at the same time.
	endAtOnce = 8
)

// What became of a session.
const (
	sessionEnded   = "ended"
	sessionNoToken = "no_token" // the proxy has no token of the device
	sessionFailed  = "failed"   // the homeserver did not confirm it
)

// Ended is what became of an account's sessions.
type Ended struct {
	UserID  id.UserID     `json:"user_id"`
	Devices []EndedDevice `json:"devices"`
	// KeysElsewhere reports whether another process has the account, which destroys the keys when
	// the homeserver next refuses a token.
	KeysElsewhere bool `json:"keys_elsewhere,omitempty"`
}

// EndedDevice is what became of one session.
type EndedDevice struct {
	DeviceID id.DeviceID `json:"device_id"`
	Outcome  string      `json:"outcome"`
}

// EndSessions logs the account's devices out at the homeserver, each with its own token, and then
// destroys the keys that are held for them. A device whose token the proxy does not have goes on,
// and so does one that the homeserver does not confirm to have ended. Nobody is kept from logging
// in again. What the account has begun at the console ends first, whatever the homeserver says.
func (o *Overview) EndSessions(ctx context.Context, who string, user id.UserID) (*Ended, error) {
	row, err := o.lookUp(ctx, user)
	if err != nil {
		return nil, err
	}
	ctx, cancel := core.Detach(ctx, endWithin)
	defer cancel()
	devices, err := o.env.Store.Devices(ctx, row)
	if err != nil {
		return nil, err
	}
	r := &audit.Record{At: o.env.Now(), Kind: audit.KindSessionsEnded, Account: user.String(), Policy: o.env.PolicyVersion(), Note: fmt.Sprintf("%d devices, by %s", len(devices), who)}
	if err := o.env.Store.AppendAudit(ctx, r); err != nil {
		return nil, fmt.Errorf("write the audit log: %w", err)
	}
	if err := o.env.Store.EndConsoleSessionsOf(ctx, user); err != nil {
		return nil, err
	}
	out := &Ended{UserID: user, Devices: make([]EndedDevice, len(devices))}
	var work errgroup.Group
	work.SetLimit(endAtOnce)
	for i := range devices {
		work.Go(parallel.Safe(func() error {
			out.Devices[i] = EndedDevice{devices[i].DeviceID, o.end(ctx, user, &devices[i])}
			return nil
		}))
	}
	if err := work.Wait(); err != nil {
		return nil, fmt.Errorf("end sessions: %w", err)
	}
	var ended []id.DeviceID
	for _, d := range out.Devices {
		if d.Outcome == sessionEnded {
			ended = append(ended, d.DeviceID)
		}
	}
	if len(ended) == 0 {
		return out, nil
	}
	err = o.host.Forget(ctx, user, ended...)
	if errors.Is(err, store.ErrElsewhere) {
		out.KeysElsewhere, err = true, nil
	}
	if err != nil {
		return nil, fmt.Errorf("destroy the keys of devices that were logged out: %w", err)
	}
	return out, nil
}

// end logs a device out with each of its tokens.
func (o *Overview) end(ctx context.Context, user id.UserID, dev *store.Device) string {
	tokens := o.host.Tokens(user, dev.DeviceID, dev.ID)
	if len(tokens) == 0 {
		tokens = core.Distinct(dev.Token)
	}
	outcome := sessionNoToken
	for _, token := range tokens {
		if outcome = o.logOut(ctx, token); outcome != sessionEnded {
			return outcome
		}
	}
	return outcome
}

// logOut ends the session of a token, and asks whether it has ended.
func (o *Overview) logOut(ctx context.Context, token secret.String) string {
	err := o.env.Homeserver.Call(ctx, token, wire.Request{
		Op: "log a device out", Method: http.MethodPost, Path: mautrix.ClientURLPath{"v3", "logout"}, Body: struct{}{},
	})
	if err == nil {
		err = o.env.Homeserver.Call(ctx, token, wire.Request{
			Op: "ask whose token it is", Method: http.MethodGet, Path: mautrix.ClientURLPath{"v3", "account", "whoami"},
		})
	}
	if up, refused := errors.AsType[*wire.UpstreamError](err); refused && up.Status == http.StatusUnauthorized && up.ErrCode == "M_UNKNOWN_TOKEN" && !up.SoftLogout {
		return sessionEnded
	}
	o.env.Log.Warn().Err(err).Msg("The homeserver does not confirm that a session which an administrator ends has ended")
	return sessionFailed
}
