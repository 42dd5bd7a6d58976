-- Further devices that have shown a room key to be theirs, by user: who sends somebody
-- else's key first must not silence its owner, and nobody's claim takes another's place.
CREATE TABLE more_owners (
    account       {{int}} NOT NULL,
    device        {{int}} NOT NULL,
    room_id       {{text}} NOT NULL,
    session_id    {{text}} NOT NULL,
    user_id       {{text}} NOT NULL,
    sealed_owners {{blob}} NOT NULL,
    PRIMARY KEY (account, device, room_id, session_id, user_id),
    FOREIGN KEY (account, device) REFERENCES devices (account, id) ON DELETE CASCADE
){{compact}};
