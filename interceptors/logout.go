package interceptors

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/engineerr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/strictjson"
)

// The ends of sessions: POST logout, logout/all, DELETE devices/{deviceId}, POST
// delete_devices, account/password and account/deactivate. They pass byte for byte, steps
// of user-interactive authentication included. Once the homeserver has confirmed, the keys
// of the ended devices are deleted before the client gets its answer (requirement 22.1),
// and with a closed account everything of it. A refusal, a soft logout and a locked account
// delete nothing here.

// logout handles [Logout].
func logout(x *Exchange) error {
	return endOnceThen(x, func(ctx context.Context, _ strictjson.Object) error {
		return forget(ctx, x, x.Identity.DeviceID)
	}, nil)
}

// logoutAll handles [LogoutAll].
func (s *sessions) logoutAll(x *Exchange) error {
	return endOnceThen(x, func(ctx context.Context, _ strictjson.Object) error {
		return errors.Join(s.endConsole(ctx, x), forgetAll(ctx, x))
	}, s.endConsole)
}

// deleteDevice handles [DeleteDevice].
func deleteDevice(x *Exchange) error {
	return endThen(x, func(ctx context.Context, _ strictjson.Object) error {
		return forget(ctx, x, id.DeviceID(x.Endpoint.Params["deviceId"]))
	})
}

// deleteDevices handles [DeleteDevices].
func deleteDevices(x *Exchange) error {
	return endThen(x, func(ctx context.Context, body strictjson.Object) error {
		var gone []id.DeviceID
		for _, name := range body.Texts("devices") {
			gone = append(gone, id.DeviceID(name))
		}
		return forget(ctx, x, gone...)
	})
}

// changePassword handles [Password], which logs out all other devices unless told not to.
// Without an access token (a forgotten password) the user is not known: then the devices
// end when the homeserver refuses their tokens. The sessions of the console end in any case: nobody
// sees them among their devices, and the old password may have begun them.
func (s *sessions) changePassword(x *Exchange) error {
	done := func(ctx context.Context, body strictjson.Object) error {
		err := s.endConsole(ctx, x)
		if body.IsFalse("logout_devices") {
			return err
		}
		return errors.Join(err, forgetAll(ctx, x, x.Identity.DeviceID))
	}
	if x.Again {
		return changePasswordAgain(x, done)
	}
	return endThen(x, done)
}

// deactivate handles [Deactivate].
func (s *sessions) deactivate(x *Exchange) error {
	return endOnceThen(x, func(ctx context.Context, _ strictjson.Object) error {
		if x.Identity.UserID == "" {
			return nil
		}
		return errors.Join(s.endConsole(ctx, x), engineerr.For(x.Devices.ForgetAccount(ctx, x.Identity.UserID)))
	}, s.endConsole)
}

// endConsole ends the sessions of the request's user at the console.
func (s *sessions) endConsole(ctx context.Context, x *Exchange) error {
	if s.endPages == nil || x.Identity.UserID == "" {
		return nil
	}
	return s.endPages(ctx, x.Identity.UserID)
}

// endThen sends a request upstream and, after a 200, calls done with the members of its
// body.
func endThen(x *Exchange, done func(ctx context.Context, body strictjson.Object) error) error {
	raw, body, err := endBody(x)
	if err != nil {
		return err
	}
	return forwardThen(x, raw, func(ctx context.Context, _ strictjson.Object) error { return done(ctx, body) })
}

// endOnceThen is endThen for what ends the token of the request too: when it may have been done
// already, and the homeserver does not know the token any more, it was. But that proves the end of this
// session alone: with it goes what the own device has, and what also ends; other devices' keys go when
// the homeserver refuses their tokens.
func endOnceThen(x *Exchange, done func(ctx context.Context, body strictjson.Object) error, also func(context.Context, *Exchange) error) error {
	if !x.Again {
		return endThen(x, done)
	}
	raw, body, err := endBody(x)
	if err != nil {
		return err
	}
	x.PutBack(raw)
	resp, err := x.Upstream.Do(x, Change{})
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	ended := false
	if resp.StatusCode == http.StatusUnauthorized {
		said := exchange.AnswerObject(resp)
		ended = said.TextOrEmpty("errcode") == apierr.CodeUnknownToken && !said.IsTrue("soft_logout")
	}
	ctx := context.WithoutCancel(x.Request.Context())
	switch {
	case resp.StatusCode == http.StatusOK:
		err = done(ctx, body)
	case ended:
		if err = forget(ctx, x, x.Identity.DeviceID); also != nil {
			err = errors.Join(err, also(ctx, x))
		}
	}
	switch {
	case err != nil:
		return err
	case ended:
		return x.WriteJSON(struct{}{})
	}
	return x.Upstream.Relay(x, resp)
}

// endBody reads the body of a request that ends sessions.
func endBody(x *Exchange) (raw []byte, body strictjson.Object, err error) {
	if raw, err = x.ReadOptionalObject(); err == nil && !exchange.IsBlank(raw) {
		body, err = exchange.ParseObject(raw)
	}
	return raw, body, err
}

// forget deletes devices of the request's user. A token without a device has none, and one
// that the homeserver did not confirm has no owner.
func forget(ctx context.Context, x *Exchange, devices ...id.DeviceID) error {
	devices = slices.DeleteFunc(devices, func(d id.DeviceID) bool { return d == "" })
	if x.Identity.UserID == "" || len(devices) == 0 {
		return nil
	}
	return engineerr.For(x.Devices.Forget(ctx, x.Identity.UserID, devices...))
}

// forgetAll deletes all devices of the request's user but those in keep.
func forgetAll(ctx context.Context, x *Exchange, keep ...id.DeviceID) error {
	keep = slices.DeleteFunc(keep, func(d id.DeviceID) bool { return d == "" })
	if x.Identity.UserID == "" {
		return nil
	}
	return engineerr.For(x.Devices.ForgetAll(ctx, x.Identity.UserID, keep...))
}
