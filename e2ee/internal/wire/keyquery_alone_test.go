package wire

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"
)

// oldIdentities answers like Dendrite (0.15.2) when identities were replaced while it did not
// look: who is asked about together with others has the old one, with devices that the new one signed.
func oldIdentities(t *testing.T, asked *[]string, users func(user id.UserID, alone bool) string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			Keys map[id.UserID][]string `json:"device_keys"`
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		all := slices.Sorted(maps.Keys(body.Keys))
		*asked = append(*asked, fmt.Sprint(all))
		var devices, selves []string
		for _, user := range all {
			by := users(user, len(all) == 1)
			devices = append(devices, fmt.Sprintf(`%q:{"D":{"keys":{"curve25519:D":"c","ed25519:D":"d"},"signatures":{%q:{"ed25519:D":"s","ed25519:NEW":"t"}}}}`, user, user))
			selves = append(selves, fmt.Sprintf(`%q:{"keys":{"ed25519:%s":%q}}`, user, by, by))
		}
		s := strings.Join(selves, ",")
		_, _ = io.WriteString(w, `{"device_keys":{`+strings.Join(devices, ",")+`},"master_keys":{`+s+`},"self_signing_keys":{`+s+`}}`)
	}
}

// Whose devices another identity has signed than the one that is shown is asked about alone, and
// what is said then counts. Nobody else is, and the own server's users are not.
func TestOldIdentitiesAreAskedForAlone(t *testing.T) {
	t.Parallel()
	var asked []string
	got, err := query(t, oldIdentities(t, &asked, func(user id.UserID, alone bool) string {
		if alone || user == "@b:y" {
			return "NEW"
		}
		return "OLD"
	}), "@a:hs", "@b:y", "@c:y", "@d:z")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"[@a:hs @b:y @c:y @d:z]", "[@c:y]", "[@d:z]"}; !slices.Equal(asked, want) {
		t.Errorf("asked about %v", asked)
	}
	for user, want := range map[id.UserID]string{"@a:hs": "OLD", "@b:y": "NEW", "@c:y": "NEW", "@d:z": "NEW"} {
		for what, keys := range map[string]json.RawMessage{"master": got.MasterKeys[user], "self-signing": got.SelfSigningKeys[user]} {
			if !strings.Contains(string(keys), want) {
				t.Errorf("%s key of %s: %s", what, user, keys)
			}
		}
	}
}

// Attack: a homeserver shows everybody so, and goes on when they are asked about alone, to be asked
// without end.
func TestOldIdentitiesAreAskedForOnce(t *testing.T) {
	t.Parallel()
	var asked []string
	var users []id.UserID
	for i := range 3 * maxAskedAlone {
		users = append(users, id.UserID(fmt.Sprintf("@u%d:y", i)))
	}
	got, err := query(t, oldIdentities(t, &asked, func(id.UserID, bool) string { return "OLD" }), users...)
	if err != nil || len(got.DeviceKeys) != len(users) || len(asked) != 1+maxAskedAlone {
		t.Errorf("asked %d times, %v", len(asked), err)
	}
	asked = nil
	if _, err := query(t, oldIdentities(t, &asked, func(id.UserID, bool) string { return "OLD" }), "@a:y"); err != nil || len(asked) != 1 {
		t.Errorf("asked about %v, %v", asked, err)
	}
}
