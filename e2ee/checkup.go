package e2ee

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/checkup"
	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/backoff"
	"e2ee-proxy/internal/strictjson"
)

// CheckupLink is one link of the chain that a conversation needs, see package checkup.
type CheckupLink = checkup.Link

// CheckupState is how a link stands.
type CheckupState = checkup.State

// The states of a link.
const (
	CheckupUnknown = checkup.Unknown
	CheckupOK      = checkup.OK
	CheckupCareful = checkup.Careful
	CheckupBroken  = checkup.Broken
)

// Checkup looks at everything that a conversation through the device needs, and asks the
// homeserver for each. With talk the device sends a message to itself, in a room that it
// makes for that and leaves.
func (d *Device) Checkup(ctx context.Context, talk bool) ([]CheckupLink, error) {
	out, err := d.Status(ctx)
	if err != nil {
		return nil, err
	}
	found := &checkup.Found{Status: out}
	if d.core.Mode != core.ModeNone {
		found.TokenTrouble = d.troubleOf(d.core.Call(ctx, wire.Request{
			Op: "ask whose the access token is", Method: http.MethodGet, Path: mautrix.ClientURLPath{"v3", "account", "whoami"},
		}))
	}
	if d.core.Mode == core.ModeProxied {
		count, err := d.keySupply.Count(ctx)
		found.OneTimeKeys, found.CountTrouble = count, d.troubleOf(err)
		if !d.schedule.Live.ClientSyncs() {
			found.SyncTrouble = d.troubleOf(d.catchUp(ctx))
		}
		found.OddKeys = d.oddKeys(ctx)
		if talk {
			found.Talk = d.talkToItself(ctx)
		}
	}
	return checkup.Walk(found), nil
}

// troubleOf says for a person why the homeserver did not do something; empty without an error.
func (d *Device) troubleOf(err error) string {
	var up *wire.UpstreamError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &up) && up.Status == 0:
		return "The homeserver cannot be reached."
	case errors.As(err, &up):
		return strings.TrimSpace(fmt.Sprintf("The homeserver answered with an error (%d %s).", up.Status, wire.Truncate(up.ErrCode, 64)))
	case errors.Is(err, core.ErrDeviceNotSigned):
		return "This device is not confirmed by its owner."
	case errors.Is(err, core.ErrKeysReplaced), errors.Is(err, core.ErrKeysRefused):
		return "The homeserver does not have the keys of this device."
	case errors.Is(err, context.DeadlineExceeded):
		return "It took too long."
	}
	d.core.Env.Log.Warn().Err(err).Msg("A checkup of a device found a fault")
	return "It failed; the proxy's log says why."
}

// oddKeys returns the published keys of the own identity that other clients do not find, since
// their IDs are not the key in unpadded base64.
func (d *Device) oddKeys(ctx context.Context) []string {
	result, err := d.core.Query().QueryKeys(ctx, []id.UserID{d.acct.User})
	if err != nil {
		return nil // the other links say so
	}
	var odd []string
	for what, raw := range map[string]json.RawMessage{
		"master": result.MasterKeys[d.acct.User], "self-signing": result.SelfSigningKeys[d.acct.User], "user-signing": result.UserSigningKeys[d.acct.User],
	} {
		var shown struct {
			Keys map[string]string `json:"keys"`
		}
		if len(raw) == 0 || json.Unmarshal(raw, &shown) != nil {
			continue
		}
		for name, key := range shown.Keys {
			if name != "ed25519:"+strings.TrimRight(key, "=") || strings.Contains(key, "=") {
				odd = append(odd, what)
			}
		}
	}
	slices.Sort(odd)
	return slices.Compact(odd)
}

// talkToItself makes a room, sends a message to it, reads it, and leaves.
func (d *Device) talkToItself(ctx context.Context) *checkup.Talked {
	const algorithm = `{"algorithm":"m.megolm.v1.aes-sha2"}`
	ctx, cancel := d.core.DetachUntilStop(ctx)
	defer cancel()
	var made struct {
		RoomID id.RoomID `json:"room_id"`
	}
	err := d.core.Call(ctx, wire.Request{
		Op: "make a room", Method: http.MethodPost, Path: mautrix.ClientURLPath{"v3", "createRoom"}, Result: &made,
		Body: map[string]any{
			"preset": "private_chat", "name": "Encryption test",
			"initial_state": []any{map[string]any{"type": "m.room.encryption", "state_key": "", "content": json.RawMessage(algorithm)}},
		},
	})
	if err != nil {
		return &checkup.Talked{Step: "make a room", Trouble: d.troubleOf(err)}
	}
	step, err := "learn of the room", d.noteMade(ctx, made.RoomID, algorithm)
	if err == nil {
		step, err = d.talkIn(ctx, made.RoomID)
	}
	for _, action := range []string{"leave", "forget"} {
		gone := d.core.Call(ctx, wire.Request{
			Op: action + " a room", Method: http.MethodPost, Path: mautrix.ClientURLPath{"v3", "rooms", made.RoomID, action}, Body: struct{}{},
		})
		if err == nil && gone != nil {
			step, err = action+" the room", gone
		}
	}
	if err != nil {
		return &checkup.Talked{Step: step, Trouble: d.troubleOf(err)}
	}
	return &checkup.Talked{}
}

// noteMade records an encrypted room that the homeserver has just made for this device, as if a client
// had asked for it: its list of members may lack them for a moment.
func (d *Device) noteMade(ctx context.Context, room id.RoomID, algorithm string, invited ...id.UserID) error {
	err := d.NoteEncryption(ctx, room, []byte(algorithm))
	if err == nil {
		err = d.NoteMembership(ctx, room, d.acct.User, "join")
	}
	for i := 0; err == nil && i < len(invited); i++ {
		err = d.NoteMembership(ctx, room, invited[i], "invite")
	}
	return err
}

// errOtherText means that what came back is not what was sent.
var errOtherText = errors.New("another text came back")

// talkIn sends a message to a room and reads it. It returns what failed.
func (d *Device) talkIn(ctx context.Context, room id.RoomID) (step string, err error) {
	const body = "This message tests whether encryption works."
	content := strictjson.Object{}.Set("msgtype", strictjson.Quote("m.notice")).Set("body", strictjson.Quote(body)).Encode()
	out := Outgoing{RoomID: room, Type: "m.room.message", TxnID: rand.Text(), Content: content}
	sealed, err := d.Encrypt(ctx, out)
	if err != nil {
		return "encrypt the message", err
	}
	var sent struct {
		EventID id.EventID `json:"event_id"`
	}
	err = d.core.Call(ctx, wire.Request{
		Op: "send a message", Method: http.MethodPut, Body: sealed.Content, Result: &sent,
		Path: mautrix.ClientURLPath{"v3", "rooms", room, "send", "m.room.encrypted", sealed.TxnID},
	})
	if err != nil {
		return "send the message", err
	}
	d.Sent(out, sealed.TxnID, sent.EventID)
	event, err := d.readBack(ctx, room, sent.EventID)
	if err != nil {
		return "read the message", err
	}
	opened, err := d.Open(ctx, []Incoming{{RoomID: room, Event: event}})
	if err != nil {
		return "decrypt the message", err
	}
	shown, err := strictjson.Parse(opened[0].Event)
	if err != nil {
		return "decrypt the message", err
	}
	if text, _ := shown.Object("content").Text("body"); !opened[0].Decrypted || text != body {
		return "decrypt the message", errOtherText
	}
	return "", nil
}

// readTries is how often an event is asked for that the homeserver has just taken: Dendrite (0.15.2)
// gives it out a moment later.
const readTries = 8

func (d *Device) readBack(ctx context.Context, room id.RoomID, event id.EventID) (raw json.RawMessage, err error) {
	for try := 1; ; try++ {
		err = d.core.Call(ctx, wire.Request{
			Op: "read a message", Method: http.MethodGet, Path: mautrix.ClientURLPath{"v3", "rooms", room, "event", event}, Result: &raw,
		})
		if wire.Status(err) != http.StatusNotFound || try == readTries {
			return raw, err
		}
		if err := backoff.Wait(ctx, core.RereadPauses().After(try)); err != nil {
			return nil, err //nolint:wrapcheck // it is the cause of the context's end
		}
	}
}
