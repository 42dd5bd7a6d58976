package interceptors

import (
	"context"
	"hash/crc32"
	"slices"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
)

func (d *fakeDevices) Intents(context.Context, id.UserID) ([]e2ee.Intent, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.intents), d.err
}

func (d *fakeDevices) PutIntent(ctx context.Context, user id.UserID, in e2ee.Intent) error {
	if err := d.DropIntent(ctx, user, in.Request); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.intents = append(d.intents, in)
	return nil
}

func (d *fakeDevices) DropIntent(_ context.Context, _ id.UserID, request string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.intents = slices.DeleteFunc(d.intents, func(in e2ee.Intent) bool { return in.Request == request })
	return d.noteErr
}

func (d *fakeDevices) HashIntent(device id.DeviceID, content []byte) [32]byte {
	return [32]byte{byte(crc32.ChecksumIEEE([]byte(device))), byte(crc32.ChecksumIEEE(content)), byte(len(content))}
}

func (d *fakeDevices) HashJoined(room id.RoomID) uint64 {
	return uint64(crc32.ChecksumIEEE([]byte(room)))
}
