-- The log of who was given keys, see internal/audit. Its records are numbered from 0 without
-- a gap, its hashes as tlog numbers them. audit_head has one row: how many records there are,
-- from which on they are kept, and the tree at its right edge, sealed with both.
CREATE TABLE audit_records (
    seq           {{int}} NOT NULL PRIMARY KEY,
    at            {{int}} NOT NULL,
    sealed_record {{blob}} NOT NULL
){{strict}};
CREATE TABLE audit_hashes (
    idx  {{int}} NOT NULL PRIMARY KEY,
    hash {{blob}} NOT NULL
){{strict}};
CREATE TABLE audit_head (
    one          {{int}} NOT NULL PRIMARY KEY,
    size         {{int}} NOT NULL,
    kept_from    {{int}} NOT NULL,
    sealed_state {{blob}} NOT NULL
){{strict}};
INSERT INTO audit_head (one, size, kept_from, sealed_state) VALUES (1, 0, 0, {{nothing}});
