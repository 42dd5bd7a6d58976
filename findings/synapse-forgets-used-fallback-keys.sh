#!/usr/bin/env bash
# Synapse: a fallback key that was given out counts as unused again when it is uploaded again,
# unless the fields of its object come in alphabetical order.
#
# Why it matters to an encryption proxy: an upload whose answer was lost is repeated, with the
# same key. Synapse means to keep the mark that the key was given out meanwhile, the only sign
# by which a device learns that it has to make another, but it compares the text as it came
# with the canonical one: {"key":…,"fallback":true,"signatures":…} is never equal to itself.
# The device is told that its key is unused and keeps it, while others have it already. The
# crypto of Element sends the fields sorted, so that it does not show there; who writes a key
# down first and then signs it does not. A proxy sends {"fallback":true,"key":…,…}, always.
#
# Seen with Synapse 1.163.2, keys by vodozemac 0.10.0.
. "$(dirname "$0")/lib.sh"
pip_install "matrix-synapse==$synapse_version" "vodozemac==$vodozemac_version"
run_python <<'PYTHON'
from vodozemac import Account
from homeservers import *

UNUSED, USED = [SIGNED], []

with Synapse() as server:
    server.register("alice", "bob")
    bob = Device(server, "bob", "BOB")
    bob.publish(Account())
    for order, seen in {("key", "fallback", "signatures"): UNUSED, ("fallback", "key", "signatures"): USED}.items():
        alice = Device(server, "alice", f"{order[0]}-FIRST".upper())
        alice.publish(Account())
        alice.account.generate_fallback_key()
        (name, key), = alice.fallback_key().items()
        key = {field: key[field] for field in order}
        upload = lambda: alice.call("POST", V3 + "/keys/upload", {"fallback_keys": {name: key}})
        unused = lambda: alice.sync()["device_unused_fallback_key_types"]

        upload()
        expect(f"{', '.join(order)}: unused at first", unused(), UNUSED)
        expect("   bob is given the fallback key", bob.claim(alice.user, alice.device) == (name, key), True)
        expect("   unused then", unused(), USED)
        upload()
        expect("   unused when the same was uploaded again", unused(), seen)
        expect("   bob is given the same key once more", bob.claim(alice.user, alice.device) == (name, key), True)
        expect("   unused then", unused(), USED)
print("as seen before")
PYTHON

# Output seen:
#
#     key, fallback, signatures: unused at first: ['signed_curve25519']
#        bob is given the fallback key: True
#        unused then: []
#        unused when the same was uploaded again: ['signed_curve25519']
#        bob is given the same key once more: True
#        unused then: []
#     fallback, key, signatures: unused at first: ['signed_curve25519']
#        bob is given the fallback key: True
#        unused then: []
#        unused when the same was uploaded again: []
#        bob is given the same key once more: True
#        unused then: []
#   as seen before
