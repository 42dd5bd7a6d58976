#!/usr/bin/env bash
# Dendrite: when Alice verifies Bob, everybody who shares a room with Bob is told that Bob's
# devices changed, though nothing did that they can see; and so again when she repeats it.
#
# Why it matters to an encryption proxy: whoever is told asks for all of Bob's devices again
# before the next message. A proxy that holds hundreds of accounts, whose users verify the same
# bot or the same administrator, causes and answers all of them, each time: what it knows of a
# user has to be found unchanged cheaply, and a change must not be taken for a sign that there
# is a new device. And it tells strangers when somebody was verified. On Synapse only the
# devices of Alice hear of it, and nobody when the signature is known already.
#
# Seen with Dendrite v0.15.2 and Synapse 1.163.2, keys by vodozemac 0.10.0 and PyNaCl.
. "$(dirname "$0")/lib.sh"
pip_install "matrix-synapse==$synapse_version" "vodozemac==$vodozemac_version"
build_dendrite
run_python <<'PYTHON'
import nacl.signing
from vodozemac import Account
from homeservers import *

text = lambda raw: base64.b64encode(bytes(raw)).decode().rstrip("=")
public = lambda key: text(key.verify_key)


def signed(obj, user, key):
    signatures = {user: {"ed25519:" + public(key): text(key.sign(canonical(obj)).signature)}}
    return {name: value for name, value in obj.items() if name not in ("signatures", "unsigned")} | {"signatures": signatures}


def identity(device):
    """Publishes cross-signing keys, and returns the private ones."""
    keys = {usage: nacl.signing.SigningKey.generate() for usage in ("master", "self_signing", "user_signing")}
    body = {}
    for usage, key in keys.items():
        obj = {"user_id": device.user, "usage": [usage], "keys": {"ed25519:" + public(key): public(key)}}
        body[usage + "_key"] = obj if usage == "master" else signed(obj, device.user, keys["master"])
    device.call("POST", V3 + "/keys/device_signing/upload", body)
    return keys


def look(server, told, again):
    """told and again are the users whose device lists changed, as each device hears it."""
    server.register("alice", "bob", "carol")
    alice, other, bob, carol = devices = [Device(server, user, name) for user, name in
                                          (("alice", "ALICE"), ("alice", "OTHER"), ("bob", "BOB"), ("carol", "CAROL"))]
    for device in devices:
        device.publish(Account())
    room = alice.call("POST", V3 + "/createRoom", {"preset": "public_chat"})["room_id"]
    for device in (bob, carol):
        device.call("POST", f"{V3}/rooms/{quote(room)}/join", {})
    keys, theirs = identity(alice), identity(bob)
    position = {}
    query = lambda by: by.call("POST", V3 + "/keys/query", {"device_keys": {bob.user: []}})
    until("bob's identity", lambda: "signatures" in query(alice).get("self_signing_keys", {}).get(bob.user, {}))

    def hear():
        """What is told within two seconds, by device."""
        time.sleep(1)
        heard = {device.device: set() for device in devices}
        for _ in range(4):
            time.sleep(0.25)
            for device in devices:
                answer = device.sync(position.get(device.device))
                position[device.device] = answer["next_batch"]
                heard[device.device] |= set(answer.get("device_lists", {}).get("changed") or [])
        return {name: sorted(users) for name, users in heard.items()}

    until("nothing more to be told", lambda: not any(hear().values()))
    before = query(carol)
    signature = signed(query(alice)["master_keys"][bob.user], alice.user, keys["user_signing"])
    verify = lambda: alice.call("POST", V3 + "/keys/signatures/upload", {bob.user: {public(theirs["master"]): signature}})
    verify()
    expect(f"{server.name}, alice verifies bob: changed", hear(), told)
    expect("   what carol sees of bob is as before", query(carol) == before, True)
    expect("   alice's other device sees her signature", list(query(other)["master_keys"][bob.user]["signatures"]), [alice.user])
    verify()
    expect("   the same once more: changed", hear(), again)


ALL, NOBODY = ["@bob:localhost"], []
everybody = {"ALICE": ALL, "OTHER": ALL, "BOB": ALL, "CAROL": ALL}
with Dendrite() as server:
    look(server, everybody, everybody)
with Synapse() as server:
    look(server, everybody | {"BOB": NOBODY, "CAROL": NOBODY}, dict.fromkeys(everybody, NOBODY))
print("as seen before")
PYTHON

# Output seen:
#
#     dendrite, alice verifies bob: changed: {'ALICE': ['@bob:localhost'], 'OTHER': ['@bob:localhost'], 'BOB': ['@bob:localhost'], 'CAROL': ['@bob:localhost']}
#        what carol sees of bob is as before: True
#        alice's other device sees her signature: ['@alice:localhost']
#        the same once more: changed: {'ALICE': ['@bob:localhost'], 'OTHER': ['@bob:localhost'], 'BOB': ['@bob:localhost'], 'CAROL': ['@bob:localhost']}
#     synapse, alice verifies bob: changed: {'ALICE': ['@bob:localhost'], 'OTHER': ['@bob:localhost'], 'BOB': [], 'CAROL': []}
#        what carol sees of bob is as before: True
#        alice's other device sees her signature: ['@alice:localhost']
#        the same once more: changed: {'ALICE': [], 'OTHER': [], 'BOB': [], 'CAROL': []}
#   as seen before
