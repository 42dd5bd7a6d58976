#!/usr/bin/env bash
# Dendrite: a device that is deleted and made again under its ID finds the messages to the one
# before it in its inbox, those included that were sent while there was none.
#
# Why it matters to an encryption proxy: a proxy gives a user's device the same ID again, with
# new keys, for instance because its database is lost. Its first sync then brings Olm messages
# for identity keys that no longer exist. They look exactly like sessions that broke, and the
# rule for those (claim a key of the sender, begin a new session) would be followed for every
# message of a past that concerns nobody, at the moment when the device has least to spare;
# each such claim costs a peer a one-time key. The message itself tells: what it names as the
# receiver's curve25519 key is not ours. On Synapse the inbox goes with the device.
#
# Seen with Dendrite v0.15.2 and Synapse 1.163.2, keys by vodozemac 0.10.0.
. "$(dirname "$0")/lib.sh"
pip_install "matrix-synapse==$synapse_version" "vodozemac==$vodozemac_version"
build_dendrite
run_python <<'PYTHON'
from vodozemac import Account, AnyOlmMessage, Curve25519PublicKey
from homeservers import *


def look(server, results):
    """results says of each message in the inbox which one it is and whether the device has
    the identity key it is for and can read it."""
    server.register("alice", "bob")
    bob = Device(server, "bob", "BOB")
    bob.publish(Account())

    def login():
        alice = Device(server, "alice", "ALICE")
        alice.publish(Account())
        alice.account.generate_one_time_keys(1)
        alice.call("POST", V3 + "/keys/upload", {"one_time_keys": alice.one_time_keys()})
        alice.account.mark_keys_as_published()
        return alice

    def session(alice):
        key = Curve25519PublicKey.from_base64(bob.claim(alice.user, alice.device)[1]["key"])
        return bob.account.create_outbound_session(alice.account.curve25519_key, key)

    def send(alice, session, text):
        kind, body = session.encrypt(text.encode()).to_parts()
        content = {"algorithm": "m.olm.v1.curve25519-aes-sha2", "sender_key": bob.account.curve25519_key.to_base64(),
                   "ciphertext": {alice.account.curve25519_key.to_base64(): {"type": kind, "body": base64.b64encode(body).decode().rstrip("=")}}}
        bob.call("PUT", f"{V3}/sendToDevice/m.room.encrypted/{secrets.token_hex(8)}",
                 {"messages": {alice.user: {alice.device: content}}})
        names[body] = text

    def inbox(device):
        return device.sync().get("to_device", {}).get("events", [])

    names = {}
    old = login()
    to_old = session(old)
    send(old, to_old, "to the old device")
    until("the first message", lambda: len(inbox(old)) == 1)
    old.call("POST", V3 + "/logout", {})
    query = lambda: bob.call("POST", V3 + "/keys/query", {"device_keys": {old.user: []}})["device_keys"].get(old.user, {})
    until("the device to be gone", lambda: not query())
    # Bob has not heard of it yet.
    send(old, to_old, "to no device")
    time.sleep(1)

    new = login()
    send(new, session(new), "to the new device")
    events = until("the last message", lambda: (found := inbox(new)) and found[-1]["content"]["ciphertext"].get(new.account.curve25519_key.to_base64()) and found)
    seen = []
    for event in events:
        (receiver, message), = event["content"]["ciphertext"].items()
        body = base64.b64decode(message["body"] + "==")
        try:
            _, clear = new.account.create_inbound_session(bob.account.curve25519_key, AnyOlmMessage.from_parts(message["type"], body).to_pre_key())
            readable = clear.decode() == names[body]
        except Exception as e:
            assert "key" in str(e).lower(), e
            readable = False
        seen.append((names[body], receiver == new.account.curve25519_key.to_base64(), readable))
    expect(f"{server.name}: inbox (which, for our identity key, readable)", seen, results)


NEW = ("to the new device", True, True)
with Dendrite() as server:
    look(server, [("to the old device", False, False), ("to no device", False, False), NEW])
with Synapse() as server:
    look(server, [NEW])
print("as seen before")
PYTHON

# Output seen:
#
#     dendrite: inbox (which, for our identity key, readable): [('to the old device', False, False), ('to no device', False, False), ('to the new device', True, True)]
#     synapse: inbox (which, for our identity key, readable): [('to the new device', True, True)]
#   as seen before
