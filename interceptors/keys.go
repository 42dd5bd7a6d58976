package interceptors

import (
	"context"
	"net/http"

	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/engineerr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/strictjson"
)

// codeKeysHeld refuses what would replace keys that the proxy published.
const codeKeysHeld = "DEV.E2EE_PROXY.KEYS_HELD_BY_PROXY"

// POST keys/upload. A device has one set of keys. If its client uploads device keys of its
// own, the device becomes foreign and the proxy leaves it alone. If the proxy's keys are
// published for the device already, the upload is refused: replaced keys would cut off
// everybody who knows the old ones. Other keys belong to the device keys and are refused
// likewise. An upload without keys, with which clients ask for the counts, passes.
//
// keys/query, keys/claim and sendToDevice are in package native; keys/changes passes.

// uploadKeys handles [UploadKeys].
func uploadKeys(x *Exchange) error {
	raw, err := x.ReadOptionalObject()
	if err != nil {
		return err
	}
	x.PutBack(raw)
	if exchange.IsBlank(raw) || !mayHoldKeys(x.Identity) {
		return x.Upstream.Forward(x)
	}
	body, err := exchange.ParseObject(raw)
	if err != nil {
		return err
	}
	if !hasKeys(body) {
		return x.Upstream.Forward(x)
	}
	finish, err := x.Devices.ClientHasKeys(x.Request.Context(), x.Identity)
	if err != nil {
		return engineerr.For(err)
	}
	if finish == nil {
		return apierr.NewError(http.StatusForbidden, codeKeysHeld,
			"The proxy does the encryption for this device and has published its keys, so that the client cannot upload others.").
			WithHint("Switch encryption off in the client, or log in as a new device and let the client encrypt.")
	}
	// Only device keys make a device foreign: without them it could use no others.
	return uploadThen(x, func(ctx context.Context, accepted bool) error {
		return finish(ctx, accepted && len(body.Object("device_keys")) > 0)
	})
}

// hasKeys reports whether an upload has any key.
func hasKeys(body strictjson.Object) bool {
	for _, name := range []string{"device_keys", "one_time_keys", "fallback_keys", "org.matrix.msc2732.fallback_keys"} {
		if len(body.Object(name)) > 0 {
			return true
		}
	}
	return false
}

// uploadThen sends the client's keys upstream and calls finish with the result, also
// when the client does not wait for it.
func uploadThen(x *Exchange, finish func(context.Context, bool) error) error {
	ctx := context.WithoutCancel(x.Request.Context())
	detached := *x
	detached.Request = x.Request.WithContext(ctx)
	resp, err := x.Upstream.Do(&detached, Change{})
	if err != nil {
		if failed := finish(ctx, false); failed != nil {
			return engineerr.For(failed)
		}
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if err := finish(ctx, resp.StatusCode == http.StatusOK); err != nil {
		return engineerr.For(err)
	}
	return x.Upstream.Relay(x, resp)
}
