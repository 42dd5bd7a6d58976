-- The processes that share a PostgreSQL database, and which of them has an account: see
-- cluster.go. On SQLite both stay empty.
CREATE TABLE replicas (
    name           {{text}} NOT NULL PRIMARY KEY,
    process        {{text}} NOT NULL,
    advertise      {{text}} NOT NULL,
    schema_version {{int}} NOT NULL,
    master_keys    {{text}} NOT NULL,
    draining       {{int}} NOT NULL,
    lasts          {{int}} NOT NULL,
    expires_at     {{int}} NOT NULL,
    beat           {{int}} NOT NULL
){{strict}};

ALTER TABLE accounts ADD COLUMN owner {{text}} NOT NULL DEFAULT '';
ALTER TABLE accounts ADD COLUMN epoch {{int}} NOT NULL DEFAULT 0;
