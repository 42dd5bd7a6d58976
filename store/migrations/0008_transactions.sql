-- Neither was ever used: a repeated transaction sends the same ciphertext again, for which
-- the homeserver gives the same event.
ALTER TABLE transactions DROP COLUMN digest;
ALTER TABLE transactions DROP COLUMN event_id;
