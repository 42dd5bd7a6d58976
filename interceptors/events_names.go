package interceptors

const (
	typeEncryption = "m.room.encryption"
	typeEncrypted  = "m.room.encrypted"
	typeMember     = "m.room.member"
	typeVisibility = "m.room.history_visibility"
	typeReaction   = "m.reaction"
	typeRedaction  = "m.room.redaction"
)
