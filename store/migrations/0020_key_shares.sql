-- How far Olm sessions have moved by sending, many in one sealed text; the newest state of a
-- session is the furthest of its row and of these (olmsteps_table.go). Later steps have higher
-- numbers.
CREATE TABLE olm_steps (
    account      {{int}} NOT NULL,
    device       {{int}} NOT NULL,
    step         {{int}} NOT NULL,
    sealed_steps {{blob}} NOT NULL,
    PRIMARY KEY (account, device, step),
    FOREIGN KEY (account, device) REFERENCES devices (account, id) ON DELETE CASCADE
){{strict}};

-- How often the Olm sessions of a device were changed, by which two that would change the same
-- ones are told apart.
ALTER TABLE devices ADD COLUMN olm_changes {{int}} NOT NULL DEFAULT 0;

-- What the body of a request is made of again, instead of the body (outbox_table.go).
ALTER TABLE outbox ADD COLUMN sealed_recipe {{blob}} NOT NULL DEFAULT {{nothing}};

-- Who was given a room key, those of one write together. A later list, with a higher number,
-- holds against an earlier one, and any against a row of shares, into which nothing is written
-- any more (shares_table.go).
CREATE TABLE share_lists (
    account    {{int}} NOT NULL,
    device     {{int}} NOT NULL,
    session_id {{text}} NOT NULL,
    number     {{int}} NOT NULL,
    shares     {{blob}} NOT NULL,
    PRIMARY KEY (account, device, session_id, number),
    FOREIGN KEY (account, device) REFERENCES devices (account, id) ON DELETE CASCADE
){{strict}};
