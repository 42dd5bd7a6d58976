package clients

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"e2ee-proxy/internal/testproc"
)

// curl is what a person does with curl and a shell: a login whose answer is kept in a file,
// and then one request for each thing.
func curl(t *testing.T, p *place, again bool) client {
	p.invite(again)
	program, err := exec.LookPath("curl")
	if err != nil {
		testproc.Missing(t, "curl", err)
	}
	file := filepath.Join(p.dir, "login.json")
	ask := func(t *testing.T, args ...string) string {
		t.Helper()
		return run(t, p, program, append([]string{"--silent", "--show-error", "--fail-with-body", "--max-time", "60"}, args...)...)
	}
	api := p.proxy.URL + "/_matrix/client/v3/"
	if !again {
		login := fmt.Sprintf(`{"type":"m.login.password","identifier":{"type":"m.id.user","user":%q},"password":%q}`, p.localpart(), p.account.Password)
		ask(t, "--data", login, "--output", file, api+"login")
	}
	var session struct {
		Token string `json:"access_token"`
	}
	raw, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(raw, &session)
	}
	if err != nil {
		t.Fatal(err)
	}
	token := []string{"--header", "Authorization: Bearer " + session.Token}
	room := api + "rooms/" + url.PathEscape(p.room)
	if !again {
		ask(t, append(token, "--data", "{}", room+"/join")...)
	}
	hears := func(t *testing.T, text string) {
		t.Helper()
		var all strings.Builder
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for since := ""; !strings.Contains(all.String(), text); {
			if ctx.Err() != nil {
				t.Fatalf("it was not heard in %s", &all)
			}
			answer := ask(t, append(token, api+"sync?timeout=5000&since="+url.QueryEscape(since))...)
			var synced struct {
				NextBatch string `json:"next_batch"`
			}
			if err := json.Unmarshal([]byte(answer), &synced); err != nil {
				t.Fatal(err)
			}
			since = synced.NextBatch
			all.WriteString(answer)
		}
	}
	said := 0
	return client{
		say: func(t *testing.T, text string) {
			t.Helper()
			said++
			body := fmt.Sprintf(`{"msgtype":"m.text","body":%q}`, text)
			// The same ID as before the restart: with another text it is another message.
			ask(t, append(token, "--request", "PUT", "--data", body, fmt.Sprintf("%s/send/m.room.message/%d", room, said))...)
		},
		hears: hears,
		sends: func(t *testing.T, file string) {
			t.Helper()
			var uploaded struct {
				URI string `json:"content_uri"`
			}
			answer := ask(t, append(token, "--header", "Content-Type: image/png", "--data-binary", "@"+file, p.proxy.URL+"/_matrix/media/v3/upload")...)
			if err := json.Unmarshal([]byte(answer), &uploaded); err != nil {
				t.Fatal(err)
			}
			body := fmt.Sprintf(`{"msgtype":"m.image","body":%q,"url":%q}`, filepath.Base(file), uploaded.URI)
			put := append(token, "--request", "PUT", "--data", body, room+"/send/m.room.message/picture")
			if first, again := ask(t, put...), ask(t, put...); first != again {
				t.Errorf("sent twice it is %s and %s", first, again)
			}
		},
		opens: func(t *testing.T, name string) []byte {
			t.Helper()
			hears(t, name)
			var page struct {
				Chunk []struct {
					Content struct {
						Body string `json:"body"`
						URL  string `json:"url"`
					} `json:"content"`
				} `json:"chunk"`
			}
			if err := json.Unmarshal([]byte(ask(t, append(token, room+"/messages?dir=b&limit=50")...)), &page); err != nil {
				t.Fatal(err)
			}
			for _, e := range page.Chunk {
				if e.Content.Body == name {
					return []byte(ask(t, append(token, p.proxy.URL+"/_matrix/client/v1/media/download/"+strings.TrimPrefix(e.Content.URL, "mxc://"))...))
				}
			}
			t.Fatalf("%s is not in the history", name)
			return nil
		},
		older: func(t *testing.T, text string) {
			t.Helper()
			if page := ask(t, append(token, room+"/messages?dir=b&limit=50")...); !strings.Contains(page, text) {
				t.Errorf("the history is %s", page)
			}
		},
	}
}
