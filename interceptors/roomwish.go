package interceptors

import (
	"encoding/json"
	"net/http"
	"strings"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/strictjson"
)

// roomWish is what a client wants of a new room, as far as it can be seen in the room.
type roomWish struct {
	name, topic, alias, kind string
	invited                  map[string]bool
}

// wantedRoom reads the body of POST createRoom.
func wantedRoom(body strictjson.Object) roomWish {
	w := roomWish{
		name: body.TextOrEmpty("name"), topic: body.TextOrEmpty("topic"), alias: body.TextOrEmpty("room_alias_name"),
		kind: body.Object("creation_content").TextOrEmpty("type"), invited: make(map[string]bool),
	}
	for _, user := range body.Texts("invite") {
		w.invited[user] = true
	}
	return w
}

// fit is how a room is like one that is wanted.
type fit int

const (
	roomIsOther    fit = iota // it can never be the one
	roomFitsPartly            // it may be in the making
	roomFits
)

// isMet reports whether a room is one that the request's user has made and that is as it was wanted.
func (w roomWish) isMet(x *Exchange, room id.RoomID) (fit, error) {
	raw, status, err := ask(x.Request.Context(), x, Change{
		Pattern: "/_matrix/client/v3/rooms/{roomId}/state", Params: map[string]string{"roomId": room.String()},
		Query: exchange.IdentityQuery(x.Request.URL.Query()),
	})
	if err != nil {
		return roomIsOther, err
	}
	var state []stateEvent
	if status != http.StatusOK || json.Unmarshal(raw, &state) != nil { // one with much state is not new
		return roomIsOther, nil
	}
	return w.fits(state, string(x.Identity.UserID)), nil
}

// stateEvent is what is looked at of a room's state.
type stateEvent struct {
	Type     string `json:"type"`
	Sender   string `json:"sender"`
	StateKey string `json:"state_key"`
	Content  struct {
		Kind       string `json:"type"`
		Name       string `json:"name"`
		Topic      string `json:"topic"`
		Alias      string `json:"alias"`
		Membership string `json:"membership"`
	} `json:"content"`
}

// fits compares a room's state with what was wanted.
func (w roomWish) fits(state []stateEvent, self string) fit {
	made, name, topic, alias := false, "", "", ""
	missing := len(w.invited)
	for i := range state {
		e := &state[i]
		switch e.Type {
		case "m.room.create":
			if e.Sender != self || e.Content.Kind != w.kind {
				return roomIsOther
			}
			made = true
		case "m.room.name":
			name = e.Content.Name
		case "m.room.topic":
			topic = e.Content.Topic
		case "m.room.canonical_alias":
			alias, _, _ = strings.Cut(strings.TrimPrefix(e.Content.Alias, "#"), ":")
		case typeMember:
			switch {
			case w.invited[e.StateKey]:
				missing--
			case e.StateKey != self && e.Content.Membership == membershipInvite && e.Sender == self:
				return roomIsOther
			}
		}
	}
	switch {
	case !made, w.name != "" && name != "" && name != w.name, w.topic != "" && topic != "" && topic != w.topic, alias != "" && alias != w.alias:
		return roomIsOther
	case missing > 0, w.name != name && w.name != "", w.topic != topic && w.topic != "", w.alias != alias:
		return roomFitsPartly
	}
	return roomFits
}
