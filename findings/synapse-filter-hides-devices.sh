#!/usr/bin/env bash
# Synapse: a filter of a sync also takes away what the server says about devices.
#
# Why it matters to an encryption proxy: device_lists is the only sign that a user's devices
# have to be asked for again. It stands outside of "rooms", so a proxy that reads only
# to-device messages and device lists for a sleeping client would naturally ask for no rooms,
# or for messages only, and a proxy that passes the filter of a bot on would do so without
# knowing. Who left the room, got another device and came back is then not announced, not
# later either: the new device never gets a key. /keys/changes does tell, and so does Dendrite.
#
# Seen with Synapse 1.163.2 and Dendrite v0.15.2, keys by vodozemac 0.10.0.
. "$(dirname "$0")/lib.sh"
pip_install "matrix-synapse==$synapse_version" "vodozemac==$vodozemac_version"
build_dendrite
run_python <<'PYTHON'
from vodozemac import Account
from homeservers import *

FILTERS = {
    "no filter": None,
    "one event per room": {"room": {"timeline": {"limit": 1}}},
    "only messages": {"room": {"timeline": {"types": ["m.room.message"]}}},
    "nothing by bob": {"room": {"timeline": {"not_senders": ["@bob:localhost"]}, "state": {"not_senders": ["@bob:localhost"]}}},
    "no rooms": {"room": {"rooms": []}},
}
BOB = ["@bob:localhost"]
changed = lambda answer: answer.get("device_lists", {}).get("changed") or []


def look(server, told):
    """told says under which filters the server tells that bob's devices changed."""
    server.register("alice", "bob")
    alice, bob = Device(server, "alice", "ALICE"), Device(server, "bob", "OLD")
    alice.publish(Account()), bob.publish(Account())
    room = alice.call("POST", V3 + "/createRoom", {"preset": "public_chat", "initial_state": [
        {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}]})["room_id"]
    join = lambda: bob.call("POST", f"{V3}/rooms/{quote(room)}/join", {})
    member = lambda: alice.ask("GET", f"{V3}/rooms/{quote(room)}/state/m.room.member/{quote(bob.user)}")[1].get("membership")
    join()
    until("bob to be there", lambda: member() == "join")

    # The position up to which Alice knows everything, Bob's one device included.
    position = [alice.sync()["next_batch"]]

    def heard(what):
        def step():
            answer = alice.sync(position[0])
            position[0] = answer["next_batch"]
            return what(answer)
        return step

    # Dendrite tells twice of a join; what has been told is not to be mistaken for what comes.
    until("nothing more to be told", heard(lambda answer: not changed(answer)))
    before = position[0]
    bob.call("POST", f"{V3}/rooms/{quote(room)}/leave", {})
    until("bob to be gone", lambda: member() == "leave")
    Device(server, "bob", "NEW").publish(Account())
    join()
    until("bob to be back", lambda: member() == "join" and changed(alice.sync(before, {"room": {"timeline": {"limit": 50}}})) == BOB)

    now = alice.sync(before)["next_batch"]
    for name, filter in FILTERS.items():
        answer = alice.sync(before, filter)
        expect(f"{server.name}, {name}: changed", changed(answer), BOB if name in told else [])
        if name not in told:
            after = alice.sync(answer["next_batch"])
            expect("   the next sync without a filter: changed", changed(after), [])
    answer = alice.call("GET", f"{V3}/keys/changes?from={quote(before)}&to={quote(now)}")
    expect(f"{server.name}, /keys/changes: changed", answer["changed"], BOB)
    devices = alice.call("POST", V3 + "/keys/query", {"device_keys": {bob.user: []}})["device_keys"][bob.user]
    expect(f"{server.name}: bob's devices", sorted(devices), ["NEW", "OLD"])


with Synapse() as server:
    look(server, ["no filter", "one event per room"])
with Dendrite() as server:
    look(server, list(FILTERS))
print("as seen before")
PYTHON

# Output seen:
#
#     synapse, no filter: changed: ['@bob:localhost']
#     synapse, one event per room: changed: ['@bob:localhost']
#     synapse, only messages: changed: []
#        the next sync without a filter: changed: []
#     synapse, nothing by bob: changed: []
#        the next sync without a filter: changed: []
#     synapse, no rooms: changed: []
#        the next sync without a filter: changed: []
#     synapse, /keys/changes: changed: ['@bob:localhost']
#     synapse: bob's devices: ['NEW', 'OLD']
#     dendrite, no filter: changed: ['@bob:localhost']
#     dendrite, one event per room: changed: ['@bob:localhost']
#     dendrite, only messages: changed: ['@bob:localhost']
#     dendrite, nothing by bob: changed: ['@bob:localhost']
#     dendrite, no rooms: changed: ['@bob:localhost']
#     dendrite, /keys/changes: changed: ['@bob:localhost']
#     dendrite: bob's devices: ['NEW', 'OLD']
#   as seen before
