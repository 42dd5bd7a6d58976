package clients

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testproc"
)

// Bridges to other networks that are left out of the build, by matterbridge's own tags.
const matterbridgeWithout = "-tags=nodiscord,nogitter,noharmony,noirc,nokeybase,nomattermost,nomsteams,nomumble," +
	"nonctalk,norocketchat,noslack,nosshchat,nosteam,notelegram,novk,nowhatsapp,noxmpp,nozulip"

const matterbridgeConfig = `
[matrix.here]
Server=%q
Login=%q
Password=%q
RemoteNickFormat=""

[matrix.elsewhere]
Server=%q
MxID=%q
Token=%q
RemoteNickFormat=""

[api.test]
BindAddress="127.0.0.1:%d"
Buffer=100
RemoteNickFormat="{NICK}"

[[gateway]]
name="both"
enable=true

[[gateway.inout]]
account="matrix.here"
channel=%q

[[gateway.inout]]
account="matrix.elsewhere"
channel=%q

[[gateway.inout]]
account="api.test"
channel="api"
`

// matterbridge carries what is said in the room to its own API and to a room that is not
// encrypted, in which it has another account past the proxy, and back. It logs in anew at each
// start. Pictures come from that room: its API takes none.
func matterbridge(t *testing.T, p *place, again bool) client {
	p.invite(again)
	program := matterbridgeProgram(t)
	far := p.elsewhere(t)
	carrier := p.newAccount(t, "carrier")
	at := port(t)
	file := filepath.Join(p.dir, "matterbridge.toml")
	config := fmt.Appendf(nil, matterbridgeConfig, p.proxy.URL, p.localpart(), p.account.Password,
		p.hs.URL, carrier.UserID, carrier.AccessToken, at, p.room, far.room)
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	bridge := start(t, p, exec.Command(program, "-conf", file))
	api := fmt.Sprintf("http://127.0.0.1:%d/api/", at)
	awaitURL(t, bridge, api+"health")
	await(t, bridge, "Now relaying messages")
	return client{
		say: func(t *testing.T, text string) {
			t.Helper()
			post(t, api+"message", map[string]string{"text": text, "username": "somebody", "gateway": "both"})
		},
		hears: func(t *testing.T, text string) {
			t.Helper()
			awaitMessages(t, api, func(all []bridged) error {
				for _, m := range all {
					if strings.Contains(m.Text, text) {
						return nil
					}
				}
				return fmt.Errorf("it has heard %+v", all)
			})
		},
		sends: func(t *testing.T, file string) {
			t.Helper()
			far.send(t, file)
		},
		opens: func(t *testing.T, name string) (data []byte) {
			t.Helper()
			awaitMessages(t, api, func(all []bridged) error {
				for _, m := range all {
					for _, f := range m.Extra.File {
						if f.Name == name {
							data = f.Data
							return nil
						}
					}
				}
				return fmt.Errorf("it has %d messages, and no file %s", len(all), name)
			})
			return data
		},
	}
}

// elsewhere is a room that is not encrypted, and somebody in it who knows nothing of the proxy.
type elsewhere struct {
	hs   tesths.Client
	room string
}

func (p *place) elsewhere(t *testing.T) elsewhere {
	t.Helper()
	hs := p.hs.Client().As(p.newAccount(t, "carol"))
	var made struct {
		Room string `json:"room_id"`
	}
	if err := hs.Call(t.Context(), http.MethodPost, "/_matrix/client/v3/createRoom", map[string]string{"preset": "public_chat"}, &made); err != nil {
		t.Fatal(err)
	}
	return elsewhere{hs, made.Room}
}

// send sends a picture there.
func (e elsewhere) send(t *testing.T, file string) {
	t.Helper()
	name, data := filepath.Base(file), readFile(t, file)
	var uploaded struct {
		URI string `json:"content_uri"`
	}
	if err := e.hs.Call(t.Context(), http.MethodPost, "/_matrix/media/v3/upload?filename="+name, data, &uploaded); err != nil {
		t.Fatal(err)
	}
	event := map[string]any{
		"msgtype": "m.image", "body": name, "url": uploaded.URI,
		"info": map[string]any{"mimetype": "image/png", "size": len(data)},
	}
	path := "/_matrix/client/v3/rooms/" + url.PathEscape(e.room) + "/send/m.room.message/" + name
	if err := e.hs.Call(t.Context(), http.MethodPut, path, event, nil); err != nil {
		t.Fatal(err)
	}
}

func matterbridgeProgram(t *testing.T) string {
	t.Helper()
	program, err := testproc.GoProgram(t.Context(), filepath.Join("test", "matterbridge"), "github.com/42wim/matterbridge", matterbridgeWithout)
	if err != nil {
		testproc.Missing(t, "matterbridge", err)
	}
	return program
}

// bridged is a message as matterbridge's API gives it out.
type bridged struct {
	Text  string
	Extra struct {
		File []struct {
			Name string
			Data []byte
		}
	}
}

// awaitMessages waits for something that matterbridge gives out. It gives out each message once.
func awaitMessages(t *testing.T, api string, there func(all []bridged) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var all []bridged
	err := testproc.Await(ctx, func(ctx context.Context) error {
		var got []bridged // what came since it was asked last
		if err := (tesths.Client{URL: api}).Call(ctx, http.MethodGet, "messages", nil, &got); err != nil {
			return err
		}
		all = append(all, got...)
		return there(all)
	})
	if err != nil {
		t.Fatal(err)
	}
}
