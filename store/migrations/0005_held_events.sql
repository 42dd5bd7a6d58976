-- An event that cannot be read yet is held until a time, or its key has come, and stands in
-- the response after which the client has its placeholder.
ALTER TABLE pending_events ADD COLUMN held_until {{int}} NOT NULL DEFAULT 0;
ALTER TABLE pending_events ADD COLUMN placed_at {{text}} NOT NULL DEFAULT '';
CREATE INDEX pending_events_held ON pending_events (account, device, held_until, event_id) WHERE held_until > 0;
