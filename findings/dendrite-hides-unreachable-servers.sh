#!/usr/bin/env bash
# Dendrite: when a server cannot be reached, /keys/query says so in "failures" only if it has nothing
# else to say. When anybody of another server is asked about in the same request, the failure is
# taken out, and the users of that server are not in the answer at all. And for ten minutes or an
# hour after the failure they cannot be asked about with the usual timeout of 10 s, although
# the server is there again and its messages arrive: each query first waits 10 s for something else.
#
# Why it matters to an encryption proxy: whoever writes into a room asks about all its members at once,
# so that there is always somebody else. An answer without failures in which a user is not listed
# reads as a user who has no devices: the room key is given to nobody of that server, and when it
# is there again, nobody is told and nothing is asked again, because nothing has changed. So a user
# who is not listed has to be taken for one of whom nothing is known, and asked about again:
# both servers list somebody without devices, or who does not exist, with an empty object. And the
# timeout that a query names has to be longer than 10 s, so that some of it is left. Synapse
# names the failure always.
#
# Seen with Dendrite v0.15.2 and Synapse 1.163.2, keys by vodozemac 0.10.0.
. "$(dirname "$0")/lib.sh"
pip_install "matrix-synapse==$synapse_version" "vodozemac==$vodozemac_version"
build_dendrite
run_python <<'PYTHON'
from vodozemac import Account
from homeservers import *


def look(home, other, named):
    """named says whether the failure is named beside the devices of others."""
    home.register("alice", "local")
    other.register("bob", "empty")
    alice, local, bob = Device(home, "alice", "ALICE"), Device(home, "local", "LOCAL"), Device(other, "bob", "BOB")
    for device in (alice, local, bob):
        device.publish(Account())
    room = alice.call("POST", V3 + "/createRoom", {"preset": "private_chat", "invite": [bob.user]})["room_id"]
    until("the invite", lambda: room in bob.sync().get("rooms", {}).get("invite", {}))
    bob.call("POST", f"{V3}/rooms/{quote(room)}/join", {})
    until("bob to be in", lambda: bob.user in alice.call("GET", f"{V3}/rooms/{quote(room)}/joined_members")["joined"])
    position = alice.sync()["next_batch"]

    def query(what, users, devices, failures, timeout=10):
        answer = alice.call("POST", V3 + "/keys/query", {"device_keys": {user: [] for user in users}, "timeout": timeout * 1000})
        expect(f"{home.name}, {what}: devices, servers that failed",
               ({user[1:].split(":")[0]: sorted(keys) for user, keys in sorted(answer["device_keys"].items())},
                ["bob's" if name == other.server_name else name for name in answer.get("failures") or {}]), (devices, failures))

    empty, nobody = (f"@{name}:{other.server_name}" for name in ("empty", "nobody"))
    query("who has no devices, and who is not there", [empty, nobody], {"empty": [], "nobody": []}, [])
    other.stop()
    query("bob's server is down: bob", [bob.user], {}, ["bob's"])
    query("bob's server is down: bob and a local user", [bob.user, local.user], {"local": ["LOCAL"]}, ["bob's"] if named else [])
    other.start()

    def told():
        """What alice is told in ten seconds."""
        now, changed, end = position, set(), time.monotonic() + 10
        while time.monotonic() < end:
            answer = alice.sync(now)
            now = answer["next_batch"]
            changed |= set(answer.get("device_lists", {}).get("changed") or [])
            time.sleep(0.5)
        return sorted(changed)

    expect(f"{home.name}, it is there again: alice is told of", told(), [])
    bob.call("PUT", f"{V3}/rooms/{quote(room)}/send/m.room.message/{secrets.token_hex(8)}", {"msgtype": "m.text", "body": "here"})
    until("bob's message", lambda: "here" in json.dumps(alice.sync(position)))
    both = {"bob": ["BOB"], "local": ["LOCAL"]}
    if named:
        query("bob has written: bob and a local user", [bob.user, local.user], both, [])
    else:
        query("bob has written: bob", [bob.user], {}, ["bob's"])
        query("bob has written: bob and a local user", [bob.user, local.user], {"local": ["LOCAL"]}, [])
        query("the same with a timeout of 15 s", [bob.user, local.user], both, [], timeout=15)


with Dendrite(federation=True) as dendrite, Synapse(federation=True) as synapse:
    look(dendrite, synapse, named=False)
with Dendrite(federation=True) as dendrite, Synapse(federation=True) as synapse:
    look(synapse, dendrite, named=True)
print("as seen before")
PYTHON

# Output seen:
#
#     dendrite, who has no devices, and who is not there: devices, servers that failed: ({'empty': [], 'nobody': []}, [])
#     dendrite, bob's server is down: bob: devices, servers that failed: ({}, ["bob's"])
#     dendrite, bob's server is down: bob and a local user: devices, servers that failed: ({'local': ['LOCAL']}, [])
#     dendrite, it is there again: alice is told of: []
#     dendrite, bob has written: bob: devices, servers that failed: ({}, ["bob's"])
#     dendrite, bob has written: bob and a local user: devices, servers that failed: ({'local': ['LOCAL']}, [])
#     dendrite, the same with a timeout of 15 s: devices, servers that failed: ({'bob': ['BOB'], 'local': ['LOCAL']}, [])
#     synapse, who has no devices, and who is not there: devices, servers that failed: ({'empty': [], 'nobody': []}, [])
#     synapse, bob's server is down: bob: devices, servers that failed: ({}, ["bob's"])
#     synapse, bob's server is down: bob and a local user: devices, servers that failed: ({'local': ['LOCAL']}, ["bob's"])
#     synapse, it is there again: alice is told of: []
#     synapse, bob has written: bob and a local user: devices, servers that failed: ({'bob': ['BOB'], 'local': ['LOCAL']}, [])
#   as seen before
