-- Under which rules events were last held back: when they change, these are judged again.
ALTER TABLE meta ADD COLUMN receive_rules TEXT NOT NULL DEFAULT '';
