-- The latest events of an account that notify once they are decrypted, and of which the
-- homeserver notified nobody: a sealed list (notifications_table.go).
CREATE TABLE notifications (
    account       {{int}} NOT NULL PRIMARY KEY REFERENCES accounts (id) ON DELETE CASCADE,
    sealed_events {{blob}} NOT NULL
){{strict}};
