#!/usr/bin/env bash
# Dendrite: a fallback key is taken with 200 and thrown away, while every sync says that the
# server supports fallback keys and has no unused one.
#
# Why it matters to an encryption proxy: the list device_unused_fallback_key_types in a sync
# is the sign by which clients know that a server has fallback keys. Dendrite sends it, always
# empty, which reads as "yours has been used, upload another". A proxy that believes it makes
# a new key again and again, and a proxy that relies on it lets its supply of one-time keys run
# low, since nobody can be turned away. Here they are: the claim after the last one-time key
# gives nothing, and its sender leaves the device out. Two things make this likelier: a claim
# does not end the long poll of the device, on either server; and when no key is left, Dendrite
# leaves the counts out of the sync altogether, where Synapse says 0, so that a proxy which
# takes a missing count for "as before" never makes new ones.
#
# Seen with Dendrite v0.15.2 and Synapse 1.163.2, keys by vodozemac 0.10.0.
. "$(dirname "$0")/lib.sh"
pip_install "matrix-synapse==$synapse_version" "vodozemac==$vodozemac_version"
build_dendrite
run_python <<'PYTHON'
import threading
from vodozemac import Account
from homeservers import *


def look(server, unused, claims, none_left):
    server.register("alice", "bob")
    alice, bob = Device(server, "alice", "ALICE"), Device(server, "bob", "BOB")
    alice.publish(Account())
    alice.account.generate_one_time_keys(1)
    alice.account.generate_fallback_key()
    fallback = alice.fallback_key()
    status, answer = alice.ask("POST", V3 + "/keys/upload", {"one_time_keys": alice.one_time_keys(), "fallback_keys": fallback})
    expect(f"{server.name}: upload of both", (status, answer), (200, {"one_time_key_counts": {SIGNED: 1}}))
    # By itself too, as a client does that replaces only this key.
    expect(f"{server.name}: upload of the fallback key alone", alice.ask("POST", V3 + "/keys/upload", {"fallback_keys": fallback})[0], 200)

    answer = alice.sync()
    expect(f"{server.name}: unused fallback keys by sync", answer.get("device_unused_fallback_key_types"), unused)
    seen, kept = [], [key["key"] for key in fallback.values()]
    for _ in range(3):
        claimed = bob.claim(alice.user, alice.device)
        # Both kinds may have the same ID, so they are told apart by the key.
        seen.append(claimed and ("fallback key" if claimed[1]["key"] in kept else "one-time key"))
    expect(f"{server.name}: three claims", seen, claims)

    # The long poll of a device does not end because its keys are claimed.
    alice.account.mark_keys_as_published()
    alice.account.generate_one_time_keys(1)
    alice.call("POST", V3 + "/keys/upload", {"one_time_keys": alice.one_time_keys()})
    since = alice.sync(alice.sync()["next_batch"])["next_batch"]
    taken = []

    def poll():
        begin = time.monotonic()
        answer = alice.call("GET", f"{V3}/sync?timeout=5000&since={quote(since)}")
        taken.append((time.monotonic() - begin, answer.get("device_one_time_keys_count")))

    polling = threading.Thread(target=poll)
    polling.start()
    time.sleep(1)
    assert bob.claim(alice.user, alice.device)
    polling.join()
    seconds, count = taken[0]
    print(f"  {server.name}: the long poll of 5 s, with the last key claimed after 1 s, took {seconds:.1f} s")
    expect(f"{server.name}: it waited to its end; the counts it then told", (seconds > 4.5, count), (True, none_left))


with Dendrite() as server:
    look(server, [], ["one-time key", None, None], None)
with Synapse() as server:
    look(server, [SIGNED], ["one-time key", "fallback key", "fallback key"], {SIGNED: 0})
print("as seen before")
PYTHON

# Output seen:
#
#     dendrite: upload of both: (200, {'one_time_key_counts': {'signed_curve25519': 1}})
#     dendrite: upload of the fallback key alone: 200
#     dendrite: unused fallback keys by sync: []
#     dendrite: three claims: ['one-time key', None, None]
#     dendrite: the long poll of 5 s, with the last key claimed after 1 s, took 5.0 s
#     dendrite: it waited to its end; the counts it then told: (True, None)
#     synapse: upload of both: (200, {'one_time_key_counts': {'signed_curve25519': 1}})
#     synapse: upload of the fallback key alone: 200
#     synapse: unused fallback keys by sync: ['signed_curve25519']
#     synapse: three claims: ['one-time key', 'fallback key', 'fallback key']
#     synapse: the long poll of 5 s, with the last key claimed after 1 s, took 5.0 s
#     synapse: it waited to its end; the counts it then told: (True, {'signed_curve25519': 0})
#   as seen before
