package unread

import (
	"encoding/json"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/strictjson"
)

// The specification's own rules that a homeserver is too old for: Dendrite 0.15 has none for
// mentions, and where an event says whom it mentions the older ones do not apply.

// added is a rule that is added when none of its names is there.
type added struct {
	names []string // the first is its own
	raw   string
}

// overrides are added in front of the first default rule that they take the place of, or
// behind all others.
func overrides(user id.UserID) []added {
	return []added{
		{
			[]string{".m.rule.is_user_mention", ".org.matrix.msc3952.is_user_mention"},
			`{"rule_id":".m.rule.is_user_mention","default":true,"enabled":true,"conditions":[{"kind":"event_property_contains","key":"content.m\\.mentions.user_ids","value":` +
				string(strictjson.Quote(string(user))) + `}],"actions":["notify",{"set_tweak":"sound","value":"default"},{"set_tweak":"highlight"}]}`,
		},
		{
			[]string{".m.rule.is_room_mention", ".org.matrix.msc3952.is_room_mention"},
			`{"rule_id":".m.rule.is_room_mention","default":true,"enabled":true,"conditions":[{"kind":"event_property_is","key":"content.m\\.mentions.room","value":true},{"kind":"sender_notification_permission","key":"room"}],"actions":["notify",{"set_tweak":"highlight"}]}`,
		},
	}
}

// lastOverrides stand behind the homeserver's.
func lastOverrides() []added {
	return []added{
		{
			[]string{".m.rule.suppress_edits", ".com.beeper.suppress_edits", ".org.matrix.msc3958.suppress_edits"},
			`{"rule_id":".m.rule.suppress_edits","default":true,"enabled":true,"conditions":[{"kind":"event_property_is","key":"content.m\\.relates_to.rel_type","value":"m.replace"}],"actions":[]}`,
		},
	}
}

// complete returns rules with those that are missing. The name of the account's user is in
// one of them.
func complete(raw json.RawMessage, user id.UserID) (json.RawMessage, error) {
	content, err := strictjson.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("read push rules: %w", err)
	}
	global := content.Object("global")
	override := global.List("override")
	missing := missingOf(override, overrides(user))
	at := slices.IndexFunc(override, func(one json.RawMessage) bool {
		switch ruleID(one) {
		case ".m.rule.contains_display_name", ".m.rule.roomnotif", ".m.rule.tombstone", ".m.rule.reaction":
			return true
		}
		return false
	})
	if at < 0 {
		at = len(override)
	}
	override = slices.Insert(slices.Clone(override), at, missing...)
	override = append(override, missingOf(override, lastOverrides())...)
	global = global.Set("override", list(override))
	return content.Set("global", global.Encode()).Encode(), nil
}

func missingOf(have []json.RawMessage, want []added) []json.RawMessage {
	var missing []json.RawMessage
	for _, a := range want {
		if !slices.ContainsFunc(have, func(one json.RawMessage) bool { return slices.Contains(a.names, ruleID(one)) }) {
			missing = append(missing, json.RawMessage(a.raw))
		}
	}
	return missing
}

func ruleID(raw json.RawMessage) string {
	rule, err := strictjson.Parse(raw)
	if err != nil {
		return ""
	}
	return rule.TextOrEmpty("rule_id")
}

func list(all []json.RawMessage) json.RawMessage {
	raw, err := json.Marshal(all)
	if err != nil { // the parts were parsed before
		return json.RawMessage(`[]`)
	}
	return raw
}
