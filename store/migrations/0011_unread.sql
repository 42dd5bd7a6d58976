-- Where the homeserver's numbers of unread messages are wrong, because it counts ciphertext. A
-- room stands under a keyed hash, another for each account (unread_table.go).
CREATE TABLE unread (
    account      {{int}} NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    room         {{blob}} NOT NULL,
    sealed_state {{blob}} NOT NULL,
    PRIMARY KEY (account, room)
){{strict}};
