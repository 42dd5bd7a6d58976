-- The sessions of people at the console (see consolesessions_table.go): by a keyed hash of what
-- the browser has, and with one of whose they are, so that they can be ended together. One that
-- was begun with the token of a device ends with it.
CREATE TABLE console_sessions (
    session        {{blob}} NOT NULL PRIMARY KEY,
    owner          {{blob}} NOT NULL,
    begun_by       {{int}} REFERENCES devices (id) ON DELETE CASCADE,
    seen_at        {{int}} NOT NULL,
    ends_at        {{int}} NOT NULL,
    sealed_session {{blob}} NOT NULL
){{strict}};
CREATE INDEX console_sessions_owner ON console_sessions (owner);
CREATE INDEX console_sessions_begun_by ON console_sessions (begun_by);
