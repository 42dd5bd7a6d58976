package cluster

import (
	"context"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors"
	"e2ee-proxy/internal/secret"
)

// devices are the engine's, with those calls that may concern an account of another replica done
// where it is.
type devices struct {
	interceptors.Devices
	n *Node
}

// Devices returns the devices of all replicas to the interceptors. Those of a request's own
// account are here, because the request is answered where they are.
func (n *Node) Devices() interceptors.Devices { return devices{n.o.Devices, n} }

func (d devices) LoggedIn(ctx context.Context, who interceptors.Identity, password secret.Bytes) error {
	return d.n.atOwner(ctx, &call{name: callLoggedIn, who: who, password: password})
}

func (d devices) Refreshed(ctx context.Context, who interceptors.Identity) error {
	return d.n.atOwner(ctx, &call{name: callRefreshed, who: who})
}

func (d devices) Forget(ctx context.Context, user id.UserID, gone ...id.DeviceID) error {
	if len(gone) == 0 {
		return nil
	}
	return d.n.atOwner(ctx, &call{name: callForget, who: interceptors.Identity{UserID: user}, devices: gone})
}

func (d devices) ForgetAll(ctx context.Context, user id.UserID, keep ...id.DeviceID) error {
	return d.n.atOwner(ctx, &call{name: callForgetAll, who: interceptors.Identity{UserID: user}, devices: keep})
}

func (d devices) ForgetAccount(ctx context.Context, user id.UserID) error {
	return d.n.atOwner(ctx, &call{name: callForgetAccount, who: interceptors.Identity{UserID: user}})
}

// UnknownToken handles a M_UNKNOWN_TOKEN of the homeserver where the account of the token is. It
// does nothing for one whose owner is not known.
func (n *Node) UnknownToken(ctx context.Context, who interceptors.Identity, softLogout bool) error {
	if who.UserID == "" || who.DeviceID == "" {
		return nil
	}
	return n.atOwner(ctx, &call{name: callUnknownToken, who: who, soft: softLogout})
}
