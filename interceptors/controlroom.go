package interceptors

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/internal/controlroom"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/interceptors/internal/media"
	"e2ee-proxy/interceptors/internal/rewrite"
	"e2ee-proxy/internal/strictjson"
)

// The control room is answered for by package controlroom; here it gets the requests. Those
// whose path names it never go upstream, whatever they are. GET joined_rooms goes up, and the
// room is added to what comes back; one of such a name that the homeserver says is taken out.

// ownNames returns the handler of requests whose path has a name that is the proxy's.
func ownNames(rooms *controlroom.Rooms) Handler {
	return func(x *Exchange) error {
		switch {
		case controlroom.RoomParam(x) != "":
			return rooms.Serve(x)
		case x.Endpoint.Params["serverName"] == e2ee.NoticeServer:
			return rooms.Download(x)
		case strings.HasSuffix(x.Endpoint.Pattern, "/presence/{userId}/status") && x.Request.Method == http.MethodGet:
			return x.WriteJSON(map[string]any{"presence": "online", "currently_active": true})
		}
		return AnswerNotice(x)
	}
}

// IsOwnName reports whether a parameter of a path is a name that only the proxy has.
func IsOwnName(name string) bool { return e2ee.IsNoticeName(name) || name == e2ee.NoticeServer }

// PlainToken returns the homeserver's part of a sync token that a client was given by an earlier
// version.
func PlainToken(token string) string { return e2ee.PlainToken(token) }

// listJoined handles [JoinedRooms].
func listJoined(x *Exchange) error {
	dev, err := x.Device()
	if err != nil {
		return err
	}
	if dev.Mode() != e2ee.ModeProxied {
		return x.Upstream.Forward(x)
	}
	resp, err := x.Upstream.Do(x, Change{})
	if err != nil {
		return fmt.Errorf("list the joined rooms: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return x.RelayAndClose(resp)
	}
	defer resp.Body.Close() //nolint:errcheck // it was read to its end, or the request failed
	own, err := controlroom.Joined(x, dev)
	if err != nil {
		return err
	}
	body, err := strictjson.Parse(exchange.PeekUpTo(resp, maxJoined))
	if err != nil {
		return rewrite.Unreadable(fmt.Errorf("the joined rooms: %w", err))
	}
	rooms := []string{}
	for _, room := range body.Texts("joined_rooms") {
		if !e2ee.IsNoticeName(room) {
			rooms = append(rooms, room)
		}
	}
	if own != "" {
		rooms = append(rooms, own.String())
	}
	list, err := json.Marshal(rooms)
	if err != nil {
		return fmt.Errorf("encode the joined rooms: %w", err)
	}
	return x.WriteJSON(body.Set("joined_rooms", list).Encode())
}

// openUploaded returns what opens a file that a client has uploaded.
func openUploaded(files *media.Media) func(*exchange.Exchange, string) (*controlroom.File, error) {
	return func(x *exchange.Exchange, uri string) (*controlroom.File, error) {
		f, err := files.Uploaded(x, uri)
		if err != nil || f == nil {
			return nil, err
		}
		return &controlroom.File{Size: f.Size(), Open: func() io.Reader { return f.Reader() }, Close: f.Close}, nil
	}
}
