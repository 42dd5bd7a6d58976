-- The first schema. Statements end with a semicolon at the end of a line. The words in
-- double braces are replaced for each database; see dialect.go.
-- Times are microseconds since 1970 UTC, 0 for none. Columns named sealed_… hold values
-- of internal/seal. Text holds no zero bytes and is at most 512 bytes; see text.go.

CREATE TABLE meta (
    one           {{int}} PRIMARY KEY CHECK (one = 1),
    database_id   {{text}} NOT NULL,
    master_key_id {{text}} NOT NULL,
    sealed_root   {{blob}} NOT NULL,
    created_at    {{int}} NOT NULL
){{strict}};

CREATE TABLE restore_mark (
    one         {{int}} PRIMARY KEY CHECK (one = 1),
    incarnation {{text}} NOT NULL,
    place       {{text}} NOT NULL,
    generation  {{int}} NOT NULL
){{strict}};

CREATE TABLE accounts (
    id            {{id}},
    user_id       {{text}} NOT NULL UNIQUE,
    master_key_id {{text}} NOT NULL,
    sealed_key    {{blob}} NOT NULL,
    created_at    {{int}} NOT NULL
){{strict}};
CREATE INDEX accounts_master_key ON accounts (master_key_id);

CREATE TABLE devices (
    id                  {{id}},
    account             {{int}} NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    device_id           {{text}} NOT NULL,
    state               {{int}} NOT NULL,
    ed25519             {{text}} NOT NULL,
    curve25519          {{text}} NOT NULL,
    sealed_olm          {{blob}} NOT NULL,
    keys_uploaded       {{int}} NOT NULL,
    fallback_changed_at {{int}} NOT NULL,
    sync_position       {{text}} NOT NULL,
    sealed_token        {{blob}} NOT NULL,
    meta                {{blob}} NOT NULL,
    restored            {{int}} NOT NULL,
    last_seq            {{int}} NOT NULL DEFAULT 0,
    UNIQUE (account, device_id),
    UNIQUE (account, id)
){{strict}};

CREATE TABLE olm_sessions (
    account          {{int}} NOT NULL,
    device           {{int}} NOT NULL,
    session_id       {{text}} NOT NULL,
    their_key        {{text}} NOT NULL,
    sealed_pickle    {{blob}} NOT NULL,
    created_at       {{int}} NOT NULL,
    last_received_at {{int}} NOT NULL,
    PRIMARY KEY (account, device, session_id),
    FOREIGN KEY (account, device) REFERENCES devices (account, id) ON DELETE CASCADE
){{strict}};
CREATE INDEX olm_sessions_their_key ON olm_sessions (account, device, their_key);

CREATE TABLE inbound_sessions (
    account        {{int}} NOT NULL,
    device         {{int}} NOT NULL,
    room_id        {{text}} NOT NULL,
    session_id     {{text}} NOT NULL,
    sealed_pickle  {{blob}} NOT NULL,
    sealed_owner   {{blob}} NOT NULL,
    source         {{text}} NOT NULL,
    first_index    {{int}} NOT NULL,
    shared_history {{int}} NOT NULL,
    received_at    {{int}} NOT NULL,
    backup_version {{text}} NOT NULL,
    PRIMARY KEY (account, device, room_id, session_id),
    FOREIGN KEY (account, device) REFERENCES devices (account, id) ON DELETE CASCADE
){{strict}};
CREATE INDEX inbound_sessions_backup ON inbound_sessions (account, device, backup_version);

CREATE TABLE message_indices (
    account    {{int}} NOT NULL,
    device     {{int}} NOT NULL,
    session    {{blob}} NOT NULL,
    idx        {{int}} NOT NULL,
    event_id   {{text}} NOT NULL,
    event_time {{int}} NOT NULL,
    PRIMARY KEY (account, device, session, idx),
    FOREIGN KEY (account, device) REFERENCES devices (account, id) ON DELETE CASCADE
){{compact}};

CREATE TABLE outbound_sessions (
    account       {{int}} NOT NULL,
    device        {{int}} NOT NULL,
    room_id       {{text}} NOT NULL,
    session_id    {{text}} NOT NULL,
    sealed_pickle {{blob}} NOT NULL,
    created_at    {{int}} NOT NULL,
    messages      {{int}} NOT NULL,
    settings      {{blob}} NOT NULL,
    discard       {{int}} NOT NULL,
    PRIMARY KEY (account, device, room_id),
    FOREIGN KEY (account, device) REFERENCES devices (account, id) ON DELETE CASCADE
){{strict}};
CREATE INDEX outbound_sessions_session ON outbound_sessions (account, device, session_id);

CREATE TABLE shares (
    account    {{int}} NOT NULL,
    device     {{int}} NOT NULL,
    session_id {{text}} NOT NULL,
    user_id    {{text}} NOT NULL,
    device_id  {{text}} NOT NULL,
    curve25519 {{text}} NOT NULL,
    idx        {{int}} NOT NULL,
    withheld   {{text}} NOT NULL,
    PRIMARY KEY (account, device, session_id, user_id, device_id),
    FOREIGN KEY (account, device) REFERENCES devices (account, id) ON DELETE CASCADE
){{compact}};

CREATE TABLE transactions (
    account    {{int}} NOT NULL,
    device     {{int}} NOT NULL,
    ref        {{blob}} NOT NULL,
    digest     {{blob}} NOT NULL,
    ciphertext {{blob}} NOT NULL,
    event_id   {{text}} NOT NULL,
    created_at {{int}} NOT NULL,
    PRIMARY KEY (account, device, ref),
    FOREIGN KEY (account, device) REFERENCES devices (account, id) ON DELETE CASCADE
){{strict}};
CREATE INDEX transactions_created ON transactions (created_at);

CREATE TABLE outbox (
    account    {{int}} NOT NULL,
    device     {{int}} NOT NULL,
    txn_id     {{text}} NOT NULL,
    seq        {{int}} NOT NULL,
    event_type {{text}} NOT NULL,
    body       {{blob}} NOT NULL,
    created_at {{int}} NOT NULL,
    PRIMARY KEY (account, device, txn_id),
    FOREIGN KEY (account, device) REFERENCES devices (account, id) ON DELETE CASCADE
){{strict}};

CREATE TABLE rooms (
    account            {{int}} NOT NULL,
    device             {{int}} NOT NULL,
    room_id            {{text}} NOT NULL,
    algorithm          {{text}} NOT NULL,
    rotation_period    {{int}} NOT NULL,
    rotation_messages  {{int}} NOT NULL,
    history_visibility {{text}} NOT NULL,
    encrypted_since    {{int}} NOT NULL,
    PRIMARY KEY (account, device, room_id),
    FOREIGN KEY (account, device) REFERENCES devices (account, id) ON DELETE CASCADE
){{compact}};

CREATE TABLE pending_events (
    account      {{int}} NOT NULL,
    device       {{int}} NOT NULL,
    event_id     {{text}} NOT NULL,
    room_id      {{text}} NOT NULL,
    session_id   {{text}} NOT NULL,
    from_user    {{text}} NOT NULL,
    event        {{blob}} NOT NULL,
    received_at  {{int}} NOT NULL,
    ready        {{int}} NOT NULL,
    delivered_at {{text}} NOT NULL,
    PRIMARY KEY (account, device, event_id),
    FOREIGN KEY (account, device) REFERENCES devices (account, id) ON DELETE CASCADE
){{strict}};
CREATE INDEX pending_events_session ON pending_events (account, device, room_id, session_id);
CREATE INDEX pending_events_ready ON pending_events (account, device, received_at, event_id) WHERE ready = 1;
CREATE INDEX pending_events_from ON pending_events (account, from_user);
CREATE INDEX pending_events_oldest ON pending_events (account, device, received_at);
CREATE INDEX pending_events_received ON pending_events (received_at);

CREATE TABLE inbox (
    account      {{int}} NOT NULL,
    device       {{int}} NOT NULL,
    seq          {{int}} NOT NULL,
    sealed_event {{blob}} NOT NULL,
    delivered_at {{text}} NOT NULL,
    PRIMARY KEY (account, device, seq),
    FOREIGN KEY (account, device) REFERENCES devices (account, id) ON DELETE CASCADE
){{strict}};

CREATE TABLE withheld (
    account    {{int}} NOT NULL,
    device     {{int}} NOT NULL,
    room_id    {{text}} NOT NULL,
    session_id {{text}} NOT NULL,
    code       {{text}} NOT NULL,
    reason     {{blob}} NOT NULL,
    PRIMARY KEY (account, device, room_id, session_id),
    FOREIGN KEY (account, device) REFERENCES devices (account, id) ON DELETE CASCADE
){{compact}};

CREATE TABLE seen_messages (
    account {{int}} NOT NULL,
    device  {{int}} NOT NULL,
    digest  {{blob}} NOT NULL,
    seen_at {{int}} NOT NULL,
    PRIMARY KEY (account, device, digest),
    FOREIGN KEY (account, device) REFERENCES devices (account, id) ON DELETE CASCADE
){{compact}};
CREATE INDEX seen_messages_at ON seen_messages (seen_at);

CREATE TABLE users (
    account       {{int}} NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    user_id       {{text}} NOT NULL,
    tracked       {{int}} NOT NULL,
    outdated      {{int}} NOT NULL,
    failures      {{int}} NOT NULL,
    retry_at      {{int}} NOT NULL,
    master        {{blob}} NOT NULL,
    self_signing  {{blob}} NOT NULL,
    user_signing  {{blob}} NOT NULL,
    pinned_master {{text}} NOT NULL,
    verified      {{int}} NOT NULL,
    was_verified  {{int}} NOT NULL,
    changed_at    {{int}} NOT NULL,
    PRIMARY KEY (account, user_id)
){{strict}};
CREATE INDEX users_outdated ON users (account, user_id) WHERE outdated = 1;

CREATE TABLE user_changes (
    seq      {{id}},
    account  {{int}} NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    user_id  {{text}} NOT NULL,
    at       {{int}} NOT NULL,
    kind     {{text}} NOT NULL,
    previous {{text}} NOT NULL,
    master   {{text}} NOT NULL
){{strict}};
CREATE INDEX user_changes_user ON user_changes (account, user_id, seq);

CREATE TABLE user_devices (
    account         {{int}} NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    user_id         {{text}} NOT NULL,
    device_id       {{text}} NOT NULL,
    ed25519         {{text}} NOT NULL,
    curve25519      {{text}} NOT NULL,
    keys            {{blob}} NOT NULL,
    signed          {{int}} NOT NULL,
    trust_exception {{int}},
    PRIMARY KEY (account, user_id, device_id)
){{strict}};

CREATE TABLE secrets (
    account      {{int}} NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    name         {{text}} NOT NULL,
    sealed_value {{blob}} NOT NULL,
    meta         {{blob}} NOT NULL,
    created_at   {{int}} NOT NULL,
    PRIMARY KEY (account, name)
){{strict}};

CREATE TABLE warnings (
    account    {{int}} NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    id         {{text}} NOT NULL,
    code       {{text}} NOT NULL,
    user_id    {{text}} NOT NULL,
    room_ids   {{blob}} NOT NULL,
    message    {{blob}} NOT NULL,
    since      {{int}} NOT NULL,
    dismissed  {{int}} NOT NULL,
    resolved   {{int}} NOT NULL,
    PRIMARY KEY (account, id)
){{strict}};
