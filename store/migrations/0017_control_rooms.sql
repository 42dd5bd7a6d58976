-- The control room of an account, which exists only in the proxy: what was said in it, and what
-- each device was shown of it, as one sealed text (controlrooms_table.go).
CREATE TABLE control_rooms (
    account     {{int}} NOT NULL PRIMARY KEY REFERENCES accounts (id) ON DELETE CASCADE,
    sealed_room {{blob}} NOT NULL
){{strict}};
