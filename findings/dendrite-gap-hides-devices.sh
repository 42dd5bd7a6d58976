#!/usr/bin/env bash
# Dendrite: who joins or leaves in the gap of a limited timeline is not in device_lists, then
# or later, nor in /keys/changes.
#
# Why it matters to an encryption proxy: in every busy room, and for every client that slept,
# what happened comes with "limited": the last ten events, and the rest as state. A user who
# left, lost one device, got another and came back in such gaps is then never named. Whoever
# follows device_lists alone, as the specification has it, goes on giving room keys to the
# device that is gone and none to the new one. No filter is needed for it. So a proxy has to
# read the memberships in the state of a limited answer itself: whoever stands there is to be
# asked for again. Synapse names who came, and who left only in /keys/changes.
#
# Seen with Dendrite v0.15.2 and Synapse 1.163.2, keys by vodozemac 0.10.0.
. "$(dirname "$0")/lib.sh"
pip_install "matrix-synapse==$synapse_version" "vodozemac==$vodozemac_version"
build_dendrite
run_python <<'PYTHON'
from vodozemac import Account
from homeservers import *

BOB, NOBODY = ["@bob:localhost"], []


def look(server, told):
    """told says of each step who is changed and left in the sync and in /keys/changes."""
    server.register("alice", "bob", "carol")
    alice, old, carol = (Device(server, user, "OLD") for user in ("alice", "bob", "carol"))
    for device in (alice, old, carol):
        device.publish(Account())
    room = alice.call("POST", V3 + "/createRoom", {"preset": "public_chat", "initial_state": [
        {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}]})["room_id"]
    path = f"{V3}/rooms/{quote(room)}"
    member = lambda: carol.ask("GET", f"{path}/state/m.room.member/{quote(old.user)}")[1].get("membership")
    query = lambda: sorted(alice.call("POST", V3 + "/keys/query", {"device_keys": {old.user: []}})["device_keys"][old.user])
    carol.call("POST", path + "/join", {})

    def bob(device, action, then):
        device.call("POST", f"{path}/{action}", {})
        until("bob's " + action, lambda: member() == then)

    def talk():
        for n in range(30):
            last = carol.call("PUT", f"{path}/send/m.room.message/{secrets.token_hex(8)}", {"msgtype": "m.text", "body": str(n)})["event_id"]
        until("the last message", lambda: carol.ask("GET", f"{path}/event/{quote(last)}")[0] == 200)
        return last

    def settle(position):
        """What has been told is not to be mistaken for what comes."""
        for _ in range(4):
            time.sleep(0.5)
            position = alice.sync(position)["next_batch"]
        return position

    names = lambda lists: (lists.get("changed") or [], lists.get("left") or [])

    def step(what, position, last=None):
        if last:
            newest = lambda answer: answer.get("rooms", {}).get("join", {}).get(room, {}).get("timeline", {}).get("events", [])[-1:]
            answer = until("the gap", lambda: (a := alice.sync(position)) and [e["event_id"] for e in newest(a)] == [last] and a)
            now = answer["rooms"]["join"][room]
            expect("   limited, bob's membership in the state", (now["timeline"]["limited"],
                   [e["content"]["membership"] for e in now["state"]["events"] if e.get("state_key") == old.user]),
                   (True, [member()]))
        else:
            answer = alice.sync(position)
        after = alice.sync(answer["next_batch"])
        kept = alice.call("GET", f"{V3}/keys/changes?from={quote(position)}&to={quote(after['next_batch'])}")
        expect(f"{server.name}, {what}: changed, left by this sync, the next, /keys/changes", [names(a.get("device_lists", {})) for a in (answer, after)] + [names(kept)], told[what])
        return settle(after["next_batch"])

    bob(old, "join", "join")
    position = settle(alice.sync()["next_batch"])
    expect(f"{server.name}: bob's devices", query(), ["OLD"])

    bob(old, "leave", "leave")
    position = step("bob leaves, then 30 messages", position, talk())

    new = Device(server, "bob", "NEW")
    new.publish(Account())
    old.call("POST", V3 + "/logout", {})
    until("bob's devices to change", lambda: query() == ["NEW"])
    time.sleep(1)
    position = step("his devices change", position)

    bob(new, "join", "join")
    step("bob joins, then 30 messages", position, talk())
    expect(f"{server.name}: bob's devices", query(), ["NEW"])


LEAVES, CHANGES, JOINS = "bob leaves, then 30 messages", "his devices change", "bob joins, then 30 messages"
NOTHING = [(NOBODY, NOBODY)] * 3
with Dendrite() as server:
    look(server, {LEAVES: NOTHING, CHANGES: NOTHING, JOINS: NOTHING})
with Synapse() as server:
    look(server, {LEAVES: [(NOBODY, NOBODY), (NOBODY, NOBODY), (NOBODY, BOB)], CHANGES: NOTHING,
                  JOINS: [(BOB, NOBODY), (NOBODY, NOBODY), (BOB, NOBODY)]})
print("as seen before")
PYTHON

# Output seen:
#
#     dendrite: bob's devices: ['OLD']
#        limited, bob's membership in the state: (True, ['leave'])
#     dendrite, bob leaves, then 30 messages: changed, left by this sync, the next, /keys/changes: [([], []), ([], []), ([], [])]
#     dendrite, his devices change: changed, left by this sync, the next, /keys/changes: [([], []), ([], []), ([], [])]
#        limited, bob's membership in the state: (True, ['join'])
#     dendrite, bob joins, then 30 messages: changed, left by this sync, the next, /keys/changes: [([], []), ([], []), ([], [])]
#     dendrite: bob's devices: ['NEW']
#     synapse: bob's devices: ['OLD']
#        limited, bob's membership in the state: (True, ['leave'])
#     synapse, bob leaves, then 30 messages: changed, left by this sync, the next, /keys/changes: [([], []), ([], []), ([], ['@bob:localhost'])]
#     synapse, his devices change: changed, left by this sync, the next, /keys/changes: [([], []), ([], []), ([], [])]
#        limited, bob's membership in the state: (True, ['join'])
#     synapse, bob joins, then 30 messages: changed, left by this sync, the next, /keys/changes: [(['@bob:localhost'], []), ([], []), (['@bob:localhost'], [])]
#     synapse: bob's devices: ['NEW']
#   as seen before
