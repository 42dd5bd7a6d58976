-- When an account made an exception for a device, and with which of its own devices: for the
-- overview of administrators. Exceptions that are there already have neither.
ALTER TABLE user_devices ADD COLUMN exception_at {{int}} NOT NULL DEFAULT 0;
ALTER TABLE user_devices ADD COLUMN exception_by {{text}} NOT NULL DEFAULT '';
CREATE INDEX user_devices_exceptions ON user_devices (account, user_id, device_id) WHERE trust_exception IS NOT NULL;
