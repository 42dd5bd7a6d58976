#!/usr/bin/env bash
# Dendrite: the list of notifications goes on showing a message whole after it was redacted, and
# after every other endpoint shows it empty.
#
# Why it matters to an encryption proxy: a redaction takes the ciphertext from the server, which
# is why deleting a message works although every member has its key. In this list the ciphertext
# stays, and the key is still here: a proxy that decrypts the list as it decrypts everything else
# brings back what was deleted, also to a device that was not there when it was said. Nothing in
# the entry tells that it was redacted. The list can be asked for years later, so remembering
# redactions that passed by in syncs does not cover it; asking for each event again does.
#
# Synapse takes the entry out of the list.
#
# Seen with Dendrite v0.15.2 and Synapse 1.163.2.
. "$(dirname "$0")/lib.sh"
pip_install "matrix-synapse==$synapse_version" "vodozemac==$vodozemac_version"
build_dendrite
run_python <<'PYTHON'
from homeservers import *


def look(server, kept):
    server.register("alice", "bob")
    alice, bob = Device(server, "alice", "ALICE"), Device(server, "bob", "BOB")
    room = alice.call("POST", V3 + "/createRoom", {"preset": "private_chat", "invite": [bob.user]})["room_id"]
    bob.call("POST", f"{V3}/rooms/{quote(room)}/join", {})
    where = f"{V3}/rooms/{quote(room)}"
    # What it is encrypted with does not matter to a server.
    content = {"algorithm": "m.megolm.v1.aes-sha2", "session_id": "x", "ciphertext": "AwgAEgA"}
    event = alice.call("PUT", f"{where}/send/m.room.encrypted/1", content)["event_id"]

    def listed():
        entries = bob.call("GET", V3 + "/notifications?limit=20")["notifications"]
        return [n["event"] for n in entries if n["event"].get("event_id") == event]

    until("the notification", listed)
    expect(f"{server.name}: its ciphertext before", listed()[0]["content"].get("ciphertext"), "AwgAEgA")
    alice.call("PUT", f"{where}/redact/{quote(event)}/2", {})
    redacted = lambda: "ciphertext" not in bob.call("GET", f"{where}/event/{quote(event)}")["content"]
    until("the redaction", redacted)
    page = bob.call("GET", f"{where}/messages?dir=b&limit=50")["chunk"]
    expect(f"{server.name}: ciphertext in the room's history", [e["content"].get("ciphertext") for e in page if e["event_id"] == event], [None])
    shown = listed()
    expect(f"{server.name}: ciphertext in the list of notifications", [e["content"].get("ciphertext") for e in shown], kept)
    expect(f"{server.name}: it says that it was redacted", ["redacted_because" in e.get("unsigned", {}) for e in shown], [False for _ in kept])


with Dendrite() as server:
    look(server, ["AwgAEgA"])
with Synapse() as server:
    look(server, [])
print("as seen before")
PYTHON

# Output seen:
#
#     dendrite: its ciphertext before: 'AwgAEgA'
#     dendrite: ciphertext in the room's history: [None]
#     dendrite: ciphertext in the list of notifications: ['AwgAEgA']
#     dendrite: it says that it was redacted: [False]
#     synapse: its ciphertext before: 'AwgAEgA'
#     synapse: ciphertext in the room's history: [None]
#     synapse: ciphertext in the list of notifications: []
#     synapse: it says that it was redacted: []
#   as seen before
