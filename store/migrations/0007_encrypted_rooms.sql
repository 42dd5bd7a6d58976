-- That a room is encrypted is known once for the whole database, and outlives devices and
-- accounts. A room, and a device that was forgotten, stand under a keyed hash
-- (encryptedrooms_table.go, forgottendevices_table.go): what is left of an account that is
-- gone names nothing. The rooms that devices know of come from the program.
CREATE TABLE encrypted_rooms (
    room      {{blob}} NOT NULL PRIMARY KEY,
    algorithm {{text}} NOT NULL,
    since     {{int}} NOT NULL
){{compact}};

CREATE TABLE forgotten_devices (
    device       {{blob}} NOT NULL PRIMARY KEY,
    forgotten_at {{int}} NOT NULL
){{compact}};
