-- Exceptions by which an account trusts a device no more, while the homeserver does not show the
-- device (distrusts_table.go). Those for devices that it shows are in user_devices.
CREATE TABLE distrusts (
    account      {{int}} NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    user_id      {{text}} NOT NULL,
    device_id    {{text}} NOT NULL,
    ed25519      {{text}} NOT NULL,
    curve25519   {{text}} NOT NULL,
    sealed_trust {{blob}} NOT NULL,
    exception_at {{int}} NOT NULL,
    exception_by {{text}} NOT NULL,
    PRIMARY KEY (account, user_id, device_id, ed25519, curve25519)
){{strict}};
