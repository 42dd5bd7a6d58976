package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testproxy"
)

// refusedSend sends a text, which must be refused, and returns what is said.
func (c *curl) refusedSend(room string, status int, code string) (said string, took time.Duration) {
	c.t.Helper()
	begun := time.Now()
	resp, err := c.http.Do(c.t.Context(), http.MethodPut, roomPath(room, "send/m.room.message/%s", c.nextTxn()), text("refused"))
	if err != nil {
		c.t.Fatal(err)
	}
	var answer struct {
		ErrCode string `json:"errcode"`
		Error   string `json:"error"`
	}
	if err := resp.JSON(&answer); err != nil || resp.Status != status || answer.ErrCode != code {
		c.t.Errorf("a send answers %d %s, want %d %s", resp.Status, resp.Body, status, code)
	}
	return answer.Error, time.Since(begun)
}

// problemCodes returns what status says is not in order.
func (c *curl) problemCodes(ctx context.Context) ([]string, error) {
	var s struct {
		Problems []struct {
			Code string `json:"code"`
		} `json:"problems"`
	}
	err := c.http.Call(ctx, http.MethodGet, control+"status", nil, &s)
	out := make([]string, 0, len(s.Problems))
	for _, p := range s.Problems {
		out = append(out, p.Code)
	}
	return out, err
}

// Reported: whoever has left a room, was removed from it or is only invited is refused as a
// homeserver refuses it, and without the seconds that a list of members may lag behind.
func TestSendFromOutsideARoom(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		alice := loginCurl(t, proxy.URL, newAccount(t, hs, "alice"), "")
		guest := newAccount(t, hs, "bob")
		bob := loginCurl(t, proxy.URL, guest, "")
		alice.awaitInOrder()
		bob.awaitInOrder()
		for how, leave := range map[string]func(room string){
			"left": func(room string) { bob.call(http.MethodPost, roomPath(room, "leave"), map[string]any{}, nil) },
			"kicked": func(room string) {
				alice.call(http.MethodPost, roomPath(room, "kick"), map[string]any{"user_id": guest.UserID}, nil)
			},
			"banned": func(room string) {
				alice.call(http.MethodPost, roomPath(room, "ban"), map[string]any{"user_id": guest.UserID}, nil)
			},
			"invited": nil,
		} {
			room := alice.createRoom(guest.UserID)
			bob.AwaitRoom(room, "invite")
			if leave != nil {
				bob.call(http.MethodPost, roomPath(room, "join"), map[string]any{}, nil)
				bob.SendText(room, "while in the room")
				leave(room)
			}
			said, took := bob.refusedSend(room, http.StatusForbidden, "M_FORBIDDEN")
			if took > 3*time.Second {
				t.Errorf("%s: it takes %s to say %q", how, took, said)
			}
		}
	})
}

// Reported: a device ID that was logged out and is used again. Synapse accepts the
// signature of the new device and goes on showing the old one: that is told, with what
// helps, and a new identity does. Elsewhere there is nothing to tell.
func TestDeviceIDIsUsedAgain(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		account := newAccount(t, hs, "bot")
		bot := loginCurl(t, proxy.URL, account, "BOT")
		bot.awaitInOrder()
		key := bot.recoveryKey()
		room := bot.createRoom()
		bot.SendText(room, "before")
		bot.call(http.MethodPost, "/_matrix/client/v3/logout", map[string]any{}, nil)

		bot = loginCurl(t, proxy.URL, account, "BOT")
		var codes []string
		// Synapse has two signatures then, and may show one first and the other afterwards.
		for inOrder := 0; !slices.Contains(codes, "signature_not_shown") && inOrder < 10; inOrder++ {
			bot.await("neither in order nor told why not", func(ctx context.Context) (err error) {
				if codes, err = bot.problemCodes(ctx); err == nil && len(codes) > 0 && !slices.Contains(codes, "signature_not_shown") {
					err = fmt.Errorf("status says %v", codes)
				}
				return err
			})
		}
		if !slices.Contains(codes, "signature_not_shown") {
			bot.SendText(room, "after")
			return
		}
		said, _ := bot.refusedSend(room, http.StatusForbidden, "DEV.E2EE_PROXY.DEVICE_NOT_SIGNED")
		if !strings.Contains(said, "another device ID") || !strings.Contains(said, "reset") {
			t.Errorf("the send says %q", said)
		}
		bot.wantRefused(409, "DEV.E2EE_PROXY.SIGNATURE_NOT_SHOWN", http.MethodPost, control+"recover", map[string]any{"recovery_key": key})
		resp, err := bot.http.Do(t.Context(), http.MethodPost, control+"reset", map[string]any{"confirm": true, "password": account.Password})
		if err != nil || resp.Status != http.StatusOK || !json.Valid(resp.Body) {
			t.Fatalf("reset answers %d %s, %v", resp.Status, resp.Body, err)
		}
		bot.awaitSigned()
		bot.SendText(room, "after the reset")
	})
}
