package config

import (
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/rules"
	"e2ee-proxy/internal/secret"
)

// Policy is how strictly the rules of MSC4153 are applied.
type Policy struct {
	// Sending: keys go to confirmed devices only, and a changed identity blocks.
	Send Rollout `yaml:"send"`

	// Receiving: messages from devices that are not confirmed are held back.
	Receive Rollout `yaml:"receive"`

	// Devices that have keys of their own: their clients are not shown what is not confirmed,
	// and what they encrypt for it does not leave (docs/gateway.md). off does not look.
	Native Rollout `yaml:"native"`

	// What happens to what a device with keys of its own sends encrypted when the digital
	// identity of somebody who would get it was reset. warn: it is sent; clients with encryption
	// show the change by themselves, and the control API has a warning. block: it is refused (403
	// DEV.E2EE_PROXY.IDENTITY_CHANGED) until the account accepts the change through the control
	// API, with the token of any of its devices. Only while policy.native is enforced.
	NativeIdentityChanges NativeIdentityChanges `yaml:"native_identity_changes"`

	// Whether clients whose encryption is the proxy's are shown a room that only they and the proxy
	// see, in which it tells people what they must know, and does what they write there
	// (docs/control-room.md). Accounts that are shown no notices (clients.hide_warnings,
	// accounts.USER.notices) have none.
	ControlRoom Switch `yaml:"control_room"`

	// Groups of users, by name, for rules: [{name: staff, users: ["@*:example.org"]}].
	Groups []rules.Group `yaml:"groups"`
	// Rules of an organisation (docs/policy.md): who is not given a key or secret, or shown a message.
	Rules []rules.Rule `yaml:"rules"`
	// Rules that are tried instead of policy.rules: they decide nothing, differences are counted.
	TrialRules []rules.Rule `yaml:"trial_rules"`
	// File with policies in Cedar, which are asked after policy.rules and narrow further.
	CedarFile Document `yaml:"cedar_file" kind:"FILE"`
	// Policies in Cedar that are tried instead of those in policy.cedar_file, likewise.
	TrialCedarFile Document `yaml:"trial_cedar_file" kind:"FILE"`

	// A server of the organisation's that is asked about keys and secrets that the rules let be.
	DecisionPoint DecisionPoint `yaml:"decision_point"`

	// User IDs of bridge bots whose sessions may carry messages of other users. Those
	// are shown, with a warning, instead of being held back.
	Bridges []id.UserID `yaml:"bridges"`

	// What becomes of what devices that have keys of their own send unencrypted to encrypted
	// rooms. refuse: messages are refused (403 DEV.E2EE_PROXY.CLEAR_TEXT), and reasons, names of
	// reactions and searches are treated as everybody's (docs/clear-text.md); clients that
	// encrypt lose no message by it. pass: all of it is sent on. The proxy cannot tell whether
	// such a device really encrypts: one whose keys it lost, with its data, looks the same, and
	// what its client sends is then readable by the homeserver.
	NativeClearText NativeClearText `yaml:"native_clear_text"`

	// A message that came unencrypted in an encrypted room is marked (mark) or held back
	// (withhold). One that is an edit changes nothing: it is shown as a message of its own.
	// What is shown to be older than the room's encryption is neither; where the history that
	// is shown does not tell, the message is marked and never held back.
	PlainInEncrypted PlainInEncrypted `yaml:"plain_in_encrypted"`

	// A message whose key came without proof of its sender, from a backup, an import or a
	// bundle, is shown with a grey mark (show) or held back (withhold).
	Unproven Unproven `yaml:"unproven"`

	// A message that is held back leaves a placeholder that says so (placeholder), or
	// nothing at all (hide). Either way it is delivered when its sender's device is
	// confirmed.
	Withheld Withheld `yaml:"withheld"`
}

// Rollout is how strictly one direction is handled, and from when on.
type Rollout struct {
	// enforce: the rule holds. warn: everything is done as without the rule, but what it
	// would have done is shown and counted; nothing is refused by it. off: the rule is not
	// looked at. In each of them account.require_cross_signing adds a rule of its own: a
	// device of the sender's that is not signed sends nothing to encrypted rooms.
	Mode Mode `yaml:"mode"`

	// Day (2026-12-01, from 00:00 UTC) or time (2026-12-01T08:00:00Z) from which warn
	// becomes enforce. Only with mode: warn.
	EnforceFrom Date `yaml:"enforce_from"`
}

// DecisionPoint is a server that decides, in the form of OPA's data API (docs/policy.md).
type DecisionPoint struct {
	// Where it is, like https://opa.example.org/v1/data/e2ee/decisions. Empty: there is none. https,
	// unless it is on this machine or asked without a token.
	URL URL `yaml:"url"`

	// How long it may take to answer.
	Timeout time.Duration `yaml:"timeout"`

	// File with the certificates (PEM) of the authorities that it is trusted by, besides the system's.
	CAFile string `yaml:"ca_file" kind:"FILE"`

	// Token that it is sent, as Authorization: Bearer TOKEN.
	Token secret.String `yaml:"token"`

	// What happens when it does not answer. deny: nothing is given; messages are refused (503) until it
	// does. allow: what the rules let be is done. A rule's on_error wins.
	OnError OnError `yaml:"on_error"`

	// How long an answer is used again, at most 1h. 0s asks for each message anew.
	Cache time.Duration `yaml:"cache"`
}
