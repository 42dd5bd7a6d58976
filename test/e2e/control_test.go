package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproc"
)

// warning is one of those that the proxy tells its user.
type warning struct {
	ID      string   `json:"id"`
	Code    string   `json:"code"`
	UserID  string   `json:"user_id"`
	RoomIDs []string `json:"room_ids"`
	Message string   `json:"message"`
}

// standing is the answer to GET status, as far as tests look at it.
type standing struct {
	UserID   string `json:"user_id"`
	DeviceID string `json:"device_id"`
	Mode     string `json:"mode"`
	Identity struct {
		MasterKey    string `json:"master_key"`
		Ours         bool   `json:"ours"`
		DeviceSigned bool   `json:"device_signed"`
	} `json:"identity"`
	SecretStorage struct {
		DefaultKey string `json:"default_key"`
		Complete   bool   `json:"complete"`
	} `json:"secret_storage"`
	Backup struct {
		Enabled  bool   `json:"enabled"`
		Version  string `json:"version"`
		Trusted  bool   `json:"trusted"`
		Readable bool   `json:"readable"`
		Restore  *struct {
			State    string `json:"state"`
			Restored int    `json:"restored"`
			Refused  int    `json:"refused"`
		} `json:"restore"`
	} `json:"backup"`
	Overrides []override `json:"overrides"`
	Policy    struct {
		Send    string `json:"send"`
		Receive string `json:"receive"`
		Native  string `json:"native"`
		Would   *struct {
			Rooms  []wouldHave `json:"rooms"`
			Hidden int         `json:"devices_hidden"`
		} `json:"would_have"`
	} `json:"policy"`
	Problems []problem `json:"problems"`
	Warnings []warning `json:"warnings"`
}

type override struct {
	UserID   string `json:"user_id"`
	DeviceID string `json:"device_id"`
	Trusted  bool   `json:"trusted"`
}

// wouldHave is what enforcing the policy would have done in a room.
type wouldHave struct {
	RoomID     string   `json:"room_id"`
	BlockedBy  []string `json:"blocked_by"`
	WithoutKey int      `json:"devices_without_key"`
	Messages   int      `json:"messages_held_back"`
	Devices    int      `json:"devices_held_back"`
}

type problem struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint"`
}

// has returns the problem with a code.
func (s *standing) has(code string) (problem, bool) {
	i := slices.IndexFunc(s.Problems, func(p problem) bool { return p.Code == code })
	if i < 0 {
		return problem{}, false
	}
	return s.Problems[i], true
}

func (c *curl) status() standing {
	c.t.Helper()
	var s standing
	c.call(http.MethodGet, control+"status", nil, &s)
	return s
}

// awaitProblem waits until status names a problem.
func (c *curl) awaitProblem(code string) problem {
	c.t.Helper()
	var found problem
	c.await("problem "+code, func(ctx context.Context) error {
		var s standing
		if err := c.http.Call(ctx, http.MethodGet, control+"status", nil, &s); err != nil {
			return err
		}
		p, ok := s.has(code)
		if !ok {
			return fmt.Errorf("problems are %+v", s.Problems)
		}
		found = p
		return nil
	})
	return found
}

// await asks until what must come has come, without a sync.
func (c *curl) await(what string, done func(context.Context) error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), testpeer.Deadline)
	defer cancel()
	if err := testproc.Await(ctx, done); err != nil {
		c.t.Fatalf("%s (%s): %s: %v", c.account.UserID, c.account.DeviceID, what, err)
	}
}

// warnings returns those pending.
func (c *curl) warnings() []warning {
	c.t.Helper()
	var all struct {
		Warnings []warning `json:"warnings"`
	}
	c.call(http.MethodGet, control+"warnings", nil, &all)
	return all.Warnings
}

// awaitWarning syncs until a sync carries the warning about a user and names the room,
// unless it is about the own side, which has no rooms. GET warnings says the same then,
// and the room shows it to a person.
func (c *curl) awaitWarning(code, about, room string) warning {
	c.t.Helper()
	var found warning
	c.warned = nil // what the latest sync said may be over
	c.until(code+" about "+about, func() bool {
		i := slices.IndexFunc(c.warned, func(w warning) bool {
			return w.Code == code && w.UserID == about && (about == c.account.UserID || slices.Contains(w.RoomIDs, room))
		})
		if i < 0 {
			return false
		}
		found = c.warned[i]
		return true
	})
	if !slices.ContainsFunc(c.warnings(), func(w warning) bool { return w.ID == found.ID && w.Message == found.Message }) {
		c.t.Errorf("GET warnings does not have %+v: %+v", found, c.warnings())
	}
	notice := c.Await(room, testpeer.Where{"sender": noticeSender, "body": found.Message})
	if notice.Type != "m.room.message" || !contains(notice.Content, `"m.notice"`) {
		c.t.Errorf("the warning is shown as %+v", notice)
	}
	wantPlainWords(c.t, found.Message)
	return found
}

// noticeSender is who warnings are from that a room shows.
const noticeSender = "@warnings:e2ee-proxy.invalid"

// wantNoNotices fails when the homeserver, or a peer, knows of a warning.
func wantNoNotices(t *testing.T, hs *tesths.Homeserver, as tesths.Account, room string, peer *testpeer.Client) {
	t.Helper()
	events, err := hs.Client().As(as).Messages(t.Context(), room)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if contains(e.Raw, "e2ee-proxy") {
			t.Errorf("the homeserver has %s", e.Raw)
		}
	}
	if peer.Saw("e2ee-proxy.invalid") {
		t.Error("the peer was told of a warning")
	}
}

// wantPlainWords fails when a text for a person needs knowledge of encryption: no word
// of cross-signing, and of no key but the recovery key (requirement 26.1).
func wantPlainWords(t *testing.T, text string) {
	t.Helper()
	said := strings.ReplaceAll(strings.ToLower(text), "recovery key", "")
	said = regexp.MustCompile(`/_e2ee_proxy/\S+`).ReplaceAllString(said, "")
	if word := regexp.MustCompile(`cross-?sign\w*|\bkeys?\b|\bmegolm\b|\bolm\b|\bed25519\b|signature`).FindString(said); word != "" {
		t.Errorf("a person reads %q in %q", word, text)
	}
}

// refusal is an error as a client gets it.
type refusal struct {
	Code             string   `json:"errcode"`
	Text             string   `json:"error"`
	Users            []string `json:"users"`
	VerificationLost []string `json:"verification_lost"`
}

// wantRefused makes a request that must be answered with an error.
func (c *curl) wantRefused(status int, code, method, path string, body any) refusal {
	c.t.Helper()
	resp, err := c.http.Do(c.t.Context(), method, path, body)
	if err != nil {
		c.t.Fatal(err)
	}
	var r refusal
	if err := resp.JSON(&r); err != nil {
		c.t.Fatal(err)
	}
	if resp.Status != status || r.Code != code {
		c.t.Fatalf("%s: %s %s answers %d %s, want %d %s", c.account.UserID, method, path, resp.Status, resp.Body, status, code)
	}
	wantPlainWords(c.t, r.Text)
	return r
}

// sendRefused sends a text that must be refused, with this transaction ID.
func (c *curl) sendRefused(code, room, txn, body string) refusal {
	c.t.Helper()
	return c.wantRefused(http.StatusForbidden, code, http.MethodPut, roomPath(room, "send/m.room.message/%s", txn), text(body))
}

// sendAgain repeats what was refused, as a client does.
func (c *curl) sendAgain(room, txn, body string) string {
	c.t.Helper()
	return c.sendAs(room, "m.room.message", txn, text(body))
}

// known is the answer to GET users/{userId}.
type known struct {
	State            string `json:"state"`
	PinnedMasterKey  string `json:"pinned_master_key"`
	CurrentMasterKey string `json:"current_master_key"`
	Devices          []struct {
		DeviceID string `json:"device_id"`
		Signed   bool   `json:"signed"`
		Override *bool  `json:"override"`
	} `json:"devices"`
}

func userPath(user, what string) string {
	return strings.TrimSuffix(control+"users/"+url.PathEscape(user)+"/"+what, "/")
}

func (c *curl) user(user string) known {
	c.t.Helper()
	var k known
	c.call(http.MethodGet, userPath(user, ""), nil, &k)
	return k
}

// awaitUser syncs until a user is known in a state.
func (c *curl) awaitUser(user, state string) {
	c.t.Helper()
	c.until(user+" as "+state, func() bool { return c.user(user).State == state })
}

// awaitDevice syncs until the proxy knows a user's device, signed or not.
func (c *curl) awaitDevice(user, device string, signed bool) {
	c.t.Helper()
	c.until(fmt.Sprintf("%s of %s with signed=%v", device, user, signed), func() bool {
		for _, d := range c.user(user).Devices {
			if d.DeviceID == device {
				return d.Signed == signed
			}
		}
		return false
	})
}

// override makes, or with nil removes, the exception for a device.
func (c *curl) override(user, device string, trusted *bool) {
	c.t.Helper()
	path := userPath(user, "devices/"+url.PathEscape(device)+"/override")
	c.call(http.MethodPut, path, map[string]any{"trusted": trusted}, nil)
}

func (c *curl) acknowledge(user, master string) {
	c.t.Helper()
	c.call(http.MethodPost, userPath(user, "acknowledge"), map[string]any{"master_key": master}, nil)
}

// recoveryKey returns the key that the bootstrap made.
func (c *curl) recoveryKey() string {
	c.t.Helper()
	var key struct {
		RecoveryKey string `json:"recovery_key"`
	}
	c.call(http.MethodGet, control+"recovery_key", nil, &key)
	if key.RecoveryKey == "" {
		c.t.Fatalf("%s has no recovery key", c.account.UserID)
	}
	return key.RecoveryKey
}

// trust is what the proxy says of an event.
type trust struct {
	Decrypted    bool   `json:"decrypted"`
	Color        string `json:"color"`
	Code         string `json:"code"`
	WithheldCode string `json:"withheld_code"`
	UserID       string `json:"user_id"`
	DeviceID     string `json:"device_id"`
	Source       string `json:"source"`
}

// wantTrust fails unless the proxy says this of an event.
func wantTrust(t *testing.T, m testpeer.Message, want trust) {
	t.Helper()
	var unsigned struct {
		Trust trust `json:"dev.e2ee-proxy.trust"`
	}
	if err := json.Unmarshal(m.Unsigned, &unsigned); err != nil {
		t.Errorf("unsigned is %s: %v", m.Unsigned, err)
		return
	}
	if unsigned.Trust != want {
		t.Errorf("of %s (%q) the proxy says %+v, want %+v", m.EventID, m.Body, unsigned.Trust, want)
	}
}
