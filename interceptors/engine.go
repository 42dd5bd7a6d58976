package interceptors

import (
	"context"
	"fmt"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/internal/control"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/secret"
)

// NewDevices returns the devices of an engine to the interceptors.
func NewDevices(e *e2ee.Engine) Devices { return engineDevices{e} }

// mayHoldKeys reports whether the proxy can hold keys for an identity. The engine's own
// requests carry only the token, and with that of an application service they would be made
// as somebody else.
func mayHoldKeys(who Identity) bool {
	return who.DeviceID != "" && !who.Guest && !who.Asserted
}

type engineDevices struct{ engine *e2ee.Engine }

func (e engineDevices) Device(ctx context.Context, who Identity) (Device, error) {
	if who.Held {
		d, err := e.engine.Held(ctx, who.UserID, who.DeviceID)
		if err != nil {
			return nil, control.HeldError(fmt.Errorf("load the device: %w", err))
		}
		return engineDevice{d}, nil
	}
	device := who.DeviceID
	if !mayHoldKeys(who) {
		device = ""
	}
	d, err := e.engine.Device(ctx, who.UserID, device, who.Token)
	if err != nil {
		return nil, fmt.Errorf("load the device: %w", err)
	}
	return engineDevice{d}, nil
}

func (e engineDevices) HeldDevices(ctx context.Context, user id.UserID) ([]e2ee.HeldDevice, error) {
	return e.engine.HeldDevices(ctx, user)
}

func (e engineDevices) HeldIdentity(ctx context.Context, user id.UserID, device id.DeviceID) (Identity, error) {
	if device == "" {
		all, err := e.engine.HeldDevices(ctx, user)
		if err != nil {
			return Identity{}, err
		}
		if len(all) == 0 {
			return Identity{}, control.HeldError(e2ee.ErrUnknownDevice)
		}
		device = all[0].DeviceID
	}
	token, err := e.engine.HeldToken(ctx, user, device)
	if err != nil {
		return Identity{}, control.HeldError(err)
	}
	return Identity{UserID: user, DeviceID: device, Token: token, Held: true}, nil
}

func (e engineDevices) LoggedIn(ctx context.Context, who Identity, password secret.Bytes) error {
	return e.engine.LoggedIn(ctx, who.UserID, who.DeviceID, who.Token, password)
}

func (e engineDevices) Refreshed(ctx context.Context, who Identity) error {
	return e.engine.Refreshed(ctx, who.UserID, who.DeviceID, who.Token)
}

func (e engineDevices) ClientHasKeys(ctx context.Context, who Identity) (func(context.Context, bool) error, error) {
	return e.engine.ClientHasKeys(ctx, who.UserID, who.DeviceID, who.Token)
}

func (e engineDevices) ClientMayEncrypt(ctx context.Context, who Identity) (bool, error) {
	if !mayHoldKeys(who) {
		return false, nil
	}
	return e.engine.ClientMayEncrypt(ctx, who.UserID, who.DeviceID)
}

func (e engineDevices) Native(ctx context.Context, who Identity) (exchange.Native, error) {
	c, err := e.engine.Native(ctx, who.UserID, who.DeviceID, who.Token, who.Asserted)
	if err != nil || c == nil {
		return nil, err
	}
	return nativeClient{c}, nil
}

func (e engineDevices) Linked(ctx context.Context, uri string) (Identity, Device, bool, error) {
	of, found, err := e.engine.Linked(ctx, uri)
	if err != nil || !found {
		return Identity{}, nil, false, err
	}
	return Identity{UserID: of.UserID, DeviceID: of.DeviceID, Token: of.Token}, engineDevice{of.Device}, true, nil
}

func (e engineDevices) RoomEncryption(ctx context.Context, user id.UserID, room id.RoomID, read e2ee.StateReader) (e2ee.RoomEncryption, error) {
	return e.engine.RoomEncryption(ctx, user, room, read)
}

func (e engineDevices) NoteEncryption(ctx context.Context, room id.RoomID, content []byte) error {
	return e.engine.NoteEncryption(ctx, room, content)
}

func (e engineDevices) MustEncrypt(ctx context.Context, room id.RoomID) error {
	return e.engine.MustEncrypt(ctx, room)
}

func (e engineDevices) Intents(ctx context.Context, user id.UserID) ([]e2ee.Intent, error) {
	return e.engine.Intents(ctx, user)
}

func (e engineDevices) PutIntent(ctx context.Context, user id.UserID, in e2ee.Intent) error {
	return e.engine.PutIntent(ctx, user, in)
}

func (e engineDevices) DropIntent(ctx context.Context, user id.UserID, request string) error {
	return e.engine.DropIntent(ctx, user, request)
}

func (e engineDevices) HashIntent(device id.DeviceID, content []byte) [32]byte {
	return e.engine.HashIntent(device, content)
}

func (e engineDevices) HashJoined(room id.RoomID) uint64 { return e.engine.HashJoined(room) }

func (e engineDevices) Forget(ctx context.Context, user id.UserID, devices ...id.DeviceID) error {
	return e.engine.Forget(ctx, user, devices...)
}

func (e engineDevices) ForgetAll(ctx context.Context, user id.UserID, keep ...id.DeviceID) error {
	return e.engine.ForgetAll(ctx, user, keep...)
}

func (e engineDevices) ForgetAccount(ctx context.Context, user id.UserID) error {
	return e.engine.ForgetAccount(ctx, user)
}

// engineDevice is a device of the engine with the interfaces of this package.
type engineDevice struct{ *e2ee.Device }

func (d engineDevice) BeginSync(ctx context.Context, since string) (ClientSync, error) {
	s, err := d.Device.BeginSync(ctx, since)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (d engineDevice) BeginEvents(from string) exchange.ClientEvents {
	return d.Device.BeginEvents(from)
}

func (d engineDevice) Files() exchange.Files { return d.Device.Files() }

func (d engineDevice) Control() exchange.Control { return d.Device }

func (d engineDevice) ControlRoom() exchange.ControlRoom { return d.Device.ControlRoom() }

// nativeClient is a client of the engine with the interfaces of this package.
type nativeClient struct{ *e2ee.NativeClient }

func (c nativeClient) BeginQuery() exchange.NativeQuery { return c.NativeClient.BeginQuery() }

var (
	_ exchange.Control = (*e2ee.Device)(nil)
	_ ClientSync       = (*e2ee.ClientSync)(nil)

	_ exchange.ClientEvents = (*e2ee.ClientEvents)(nil)
	_ exchange.Files        = (*e2ee.Files)(nil)
)
