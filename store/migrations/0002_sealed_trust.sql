-- Who can write to the database cannot change whom an account trusts: the columns that say
-- so are tied to its key by a sealed value (users_table.go). Rows that are there get theirs
-- from the program.
ALTER TABLE users ADD COLUMN sealed_trust {{blob}} NOT NULL DEFAULT {{nothing}};
ALTER TABLE user_devices ADD COLUMN sealed_trust {{blob}} NOT NULL DEFAULT {{nothing}};
