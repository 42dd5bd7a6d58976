-- Which process may write: see lease.go.
CREATE TABLE lease (
    one        {{int}} PRIMARY KEY CHECK (one = 1),
    epoch      {{int}} NOT NULL,
    holder     {{text}} NOT NULL,
    process    {{text}} NOT NULL,
    expires_at {{int}} NOT NULL,
    beat       {{int}} NOT NULL
){{strict}};

-- The transaction that wrote the row, as PostgreSQL numbers it: see restore.go.
ALTER TABLE restore_mark ADD COLUMN written_by {{int}} NOT NULL DEFAULT 0;

-- How far a device is with one-time keys that it has no private half of: see rows.go.
ALTER TABLE devices ADD COLUMN dead_keys {{int}} NOT NULL DEFAULT 0;
