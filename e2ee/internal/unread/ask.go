package unread

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/rooms"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
)

// asker asks in the name of a device.
type asker struct {
	*core.Device
	rooms *rooms.Table
}

// As returns an Asker that asks in the name of a device.
func As(dev *core.Device, table *rooms.Table) Asker { return asker{dev, table} }

// PushRules implements Asker. A profile that cannot be read has no name.
func (a asker) PushRules(ctx context.Context) (rules json.RawMessage, name string, err error) {
	err = a.Call(ctx, wire.Request{
		Op: "read the push rules", Method: http.MethodGet, Path: mautrix.ClientURLPath{"v3", "pushrules", ""}, Result: &rules,
	})
	if err != nil {
		return nil, "", err
	}
	var profile json.RawMessage
	err = a.Call(ctx, wire.Request{
		Op: "read the own profile", Method: http.MethodGet, Path: mautrix.ClientURLPath{"v3", "profile", a.Account.User}, Result: &profile,
	})
	if read, bad := strictjson.Parse(profile); err == nil && bad == nil {
		name = read.TextOrEmpty("displayname")
	}
	return rules, name, nil
}

// JoinedMembers implements Asker.
func (a asker) JoinedMembers(ctx context.Context, room id.RoomID) (int, error) {
	members, err := a.rooms.ListMembers(ctx, room, true)
	if err != nil {
		return 0, err
	}
	joined := 0
	for _, membership := range members {
		if membership == "join" {
			joined++
		}
	}
	return joined, nil
}

// Power implements Asker.
func (a asker) Power(ctx context.Context, room id.RoomID) (levels, create json.RawMessage, creator id.UserID, err error) {
	if levels, err = a.state(ctx, room, "m.room.power_levels", nil); err != nil {
		return nil, nil, "", err
	}
	// With its format the whole event comes, which says who sent it.
	raw, err := a.state(ctx, room, wire.TypeCreate, map[string]string{"format": "event"})
	if err != nil {
		return nil, nil, "", err
	}
	event, err := strictjson.Parse(raw)
	if err == nil && event.Get("content") != nil {
		return levels, event.Get("content"), id.UserID(event.TextOrEmpty("sender")), nil
	}
	return levels, raw, "", nil
}

// state reads a state event's content; nil when there is none.
func (a asker) state(ctx context.Context, room id.RoomID, eventType string, query map[string]string) (json.RawMessage, error) {
	var content json.RawMessage
	err := a.Call(ctx, wire.Request{
		Op: "read the state " + eventType, Method: http.MethodGet, Query: query,
		Path: mautrix.ClientURLPath{"v3", "rooms", room, "state", eventType, ""}, Result: &content,
	})
	var up *wire.UpstreamError
	if errors.As(err, &up) && up.Status == http.StatusNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("who may notify a room: %w", err)
	}
	return content, nil
}
