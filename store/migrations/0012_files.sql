-- What an account knows of encrypted files: under a keyed hash of the URI by which its
-- clients name one, its place and its key, sealed. event is the keyed hash of the event in
-- which the account sent it, empty when it was in none. expires_at is 0 for those that are
-- in use.
CREATE TABLE files (
    account     {{int}} NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    ref         {{blob}} NOT NULL,
    sealed_file {{blob}} NOT NULL,
    event       {{blob}} NOT NULL,
    created_at  {{int}} NOT NULL,
    expires_at  {{int}} NOT NULL,
    PRIMARY KEY (account, ref)
){{strict}};
CREATE INDEX files_expires ON files (expires_at);
CREATE INDEX files_event ON files (account, event);
