package e2ee

import (
	"encoding/json"
	"fmt"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/trustcache"
)

// keptOwner is what is stored with a room key: its owner, as far as that is proven,
// attested or claimed, and what else other clients had written beside one that came from a
// backup, an import or a bundle, so that it is not lost when the key is given on.
type keptOwner struct {
	trustcache.Owner
	Extra json.RawMessage `json:"extra,omitempty"`
	// Contested says that the session has more owners: see moreowners.go.
	Contested bool `json:"contested,omitempty"`
}

func (o keptOwner) encode() (secret.Bytes, error) {
	raw, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encode key owner: %w", err)
	}
	return raw, nil
}

// decodeKeptOwner reads an owner back; an unreadable one is nobody.
func decodeKeptOwner(raw secret.Bytes) keptOwner {
	var o keptOwner
	if json.Unmarshal(raw.Reveal(), &o) != nil {
		return keptOwner{}
	}
	return o
}

// maxExtra bounds what is kept of other clients' members, in bytes.
const maxExtra = 4096

// extraMembers gives the members of session data that we do not know; nil when there are
// none or they are too much to keep.
func extraMembers(data strictjson.Object) json.RawMessage {
	var extra strictjson.Object
	for _, m := range data {
		switch m.Name {
		case "algorithm", "sender_claimed_keys", "sender_key", "session_key", "room_id", "session_id",
			fieldSharedHistory, fieldSharedUnstable, fieldUnauthentic, fieldOwner:
		default:
			extra = append(extra, m)
		}
	}
	raw := extra.Encode()
	if len(extra) == 0 || len(raw) > maxExtra {
		return nil
	}
	return raw
}
