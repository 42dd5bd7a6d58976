package core

import (
	"context"
	"encoding/json"
	"net/http"

	"maunium.net/go/mautrix"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
)

// AccountData returns a global account data value; nil when there is none or it is empty,
// which is how clients delete it.
func (p *Device) AccountData(ctx context.Context, name string) (json.RawMessage, error) {
	var raw json.RawMessage
	err := p.Call(ctx, wire.Request{
		Op: "read account data", Method: http.MethodGet,
		Path: mautrix.ClientURLPath{"v3", "user", p.Account.User, "account_data", name}, Result: &raw,
	})
	if wire.Status(err) == http.StatusNotFound {
		return nil, nil
	}
	if obj, bad := strictjson.Parse(raw); err == nil && bad == nil && len(obj) == 0 {
		return nil, nil
	}
	return raw, err
}

// SetAccountData replaces a global account data value.
func (p *Device) SetAccountData(ctx context.Context, name string, value any) error {
	return p.Call(ctx, wire.Request{
		Op: "write account data", Method: http.MethodPut,
		Path: mautrix.ClientURLPath{"v3", "user", p.Account.User, "account_data", name}, Body: value,
	})
}
