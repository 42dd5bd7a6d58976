#!/usr/bin/env bash
# Synapse: nobody hears that the devices of a user changed who is invited to a room and has not
# joined it, neither in a sync nor in /keys/changes.
#
# Why it matters to an encryption proxy: where the history is for those who are invited, as it is
# by default, a message is encrypted for them too, and a client looks at their devices when
# they are invited and then waits to be told of changes. Whoever is invited before the first
# login, as new people and bots are, has no device then, and reads nothing of what is written until
# they join. Whoever logs out a stolen device meanwhile has it left on everybody's list. The join
# is announced, which comes too late for what was written before. So what is known of somebody who
# is only invited has to be asked for again. Dendrite does tell, and names them as left when they
# decline.
#
# Seen with Synapse 1.163.2 and Dendrite v0.15.2, keys by vodozemac 0.10.0.
. "$(dirname "$0")/lib.sh"
pip_install "matrix-synapse==$synapse_version" "vodozemac==$vodozemac_version"
build_dendrite
run_python <<'PYTHON'
from vodozemac import Account
from homeservers import *

BOB, NEW = "@bob:localhost", "@new:localhost"


def look(server, tells):
    """tells says whether the server tells of the devices of who is invited."""
    server.register("alice", "bob", "new", "carol")
    alice, phone = Device(server, "alice", "ALICE"), Device(server, "bob", "PHONE")
    alice.publish(Account()), phone.publish(Account())
    room = alice.call("POST", V3 + "/createRoom", {
        "preset": "private_chat", "invite": [BOB, NEW, "@carol:localhost"],
        "initial_state": [{"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}]})["room_id"]
    visibility = alice.call("GET", f"{V3}/rooms/{quote(room)}/state/m.room.history_visibility")
    expect(f"{server.name}: history", visibility, {"history_visibility": "shared"})
    devices = lambda: {user: sorted(found) for user, found in alice.call(
        "POST", V3 + "/keys/query", {"device_keys": {BOB: [], NEW: []}})["device_keys"].items() if found}
    expect(f"{server.name}: devices when they are invited", devices(), {BOB: ["PHONE"]})

    position = [alice.sync()["next_batch"]]

    def heard():
        """Whom a sync and /keys/changes name since the last time."""
        before = position[0]
        answer = alice.sync(before)
        position[0] = answer["next_batch"]
        changes = alice.call("GET", f"{V3}/keys/changes?from={quote(before)}&to={quote(position[0])}")
        return {*(answer.get("device_lists", {}).get("changed") or []), *(changes["changed"] or [])}

    until("nothing more to be told", lambda: not heard())
    member = Device(server, "carol", "MARK")
    member.call("POST", f"{V3}/rooms/{quote(room)}/join", {})
    until("carol to be named", lambda: "@carol:localhost" in heard())
    until("nothing more to be told", lambda: not heard())

    def told(change):
        """What is told up to, and with, a change of carol's devices that comes after this one."""
        change()
        Device(server, "carol", secrets.token_hex(4)).publish(Account())
        names = set()
        until("carol to be named", lambda: "@carol:localhost" in (names.update(heard()) or names))
        return sorted(names - {"@carol:localhost"})

    laptop = Device(server, "bob", "LAPTOP")
    expect(f"{server.name}: bob logs in on a laptop", told(lambda: laptop.publish(Account())), tells([BOB]))
    expect(f"{server.name}: bob logs his phone out", told(lambda: phone.call("POST", V3 + "/logout", {})), tells([BOB]))
    expect(f"{server.name}: the new user logs in", told(lambda: Device(server, "new", "FIRST").publish(Account())), tells([NEW]))
    expect(f"{server.name}: devices now", devices(), {BOB: ["LAPTOP"], NEW: ["FIRST"]})
    expect(f"{server.name}: bob joins", told(lambda: laptop.call("POST", f"{V3}/rooms/{quote(room)}/join", {})), [BOB])


with Synapse() as server:
    look(server, lambda users: [])
with Dendrite() as server:
    look(server, lambda users: users)
print("as seen before")
PYTHON

# Output seen:
#
#     synapse: history: {'history_visibility': 'shared'}
#     synapse: devices when they are invited: {'@bob:localhost': ['PHONE']}
#     synapse: bob logs in on a laptop: []
#     synapse: bob logs his phone out: []
#     synapse: the new user logs in: []
#     synapse: devices now: {'@bob:localhost': ['LAPTOP'], '@new:localhost': ['FIRST']}
#     synapse: bob joins: ['@bob:localhost']
#     dendrite: history: {'history_visibility': 'shared'}
#     dendrite: devices when they are invited: {'@bob:localhost': ['PHONE']}
#     dendrite: bob logs in on a laptop: ['@bob:localhost']
#     dendrite: bob logs his phone out: ['@bob:localhost']
#     dendrite: the new user logs in: ['@new:localhost']
#     dendrite: devices now: {'@bob:localhost': ['LAPTOP'], '@new:localhost': ['FIRST']}
#     dendrite: bob joins: ['@bob:localhost']
#   as seen before
