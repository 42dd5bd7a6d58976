#!/usr/bin/env bash
# Dendrite: what an ignored user's devices send is thrown away, room keys too. When the user is
# not ignored any more, the messages come that the keys were for, and nobody sends those again.
#
# Why it matters to an encryption proxy: ignoring is meant for what is shown, and the
# specification says nothing of messages between devices. The sender believes that the key was
# delivered and goes on with the session, so that the account cannot read what is said after it
# has made up its mind either, until the session ends, by default after a week. A proxy sees no
# error: the position moves on, and nothing was there. It has to take the missing key for what
# it is, and not for an attack or a broken session, when the sender was ignored a short time
# ago. On Synapse the keys come, also while the user is ignored.
#
# Seen with Dendrite v0.15.2 and Synapse 1.163.2, keys by vodozemac 0.10.0.
. "$(dirname "$0")/lib.sh"
pip_install "matrix-synapse==$synapse_version" "vodozemac==$vodozemac_version"
build_dendrite
run_python <<'PYTHON'
from vodozemac import Account, AnyOlmMessage, Curve25519PublicKey, GroupSession, InboundGroupSession, MegolmMessage, SessionKey
from homeservers import *

unpadded = lambda raw: base64.b64encode(raw).decode().rstrip("=")


def look(server, results):
    """results says how many keys came, and of each message, what was seen of it and whether it could be read."""
    server.register("alice", "bob")
    alice, bob = Device(server, "alice", "ALICE"), Device(server, "bob", "BOB")
    alice.publish(Account()), bob.publish(Account())
    alice.account.generate_one_time_keys(1)
    alice.call("POST", V3 + "/keys/upload", {"one_time_keys": alice.one_time_keys()})
    alice.account.mark_keys_as_published()
    room = bob.call("POST", V3 + "/createRoom", {"preset": "public_chat", "initial_state": [
        {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}]})["room_id"]
    alice.call("POST", f"{V3}/rooms/{quote(room)}/join", {})
    theirs, mine = alice.account.curve25519_key, bob.account.curve25519_key
    group = GroupSession()

    def share():
        """Gives the room key to Alice's device, as a client does once for a session."""
        claimed = Curve25519PublicKey.from_base64(bob.claim(alice.user, alice.device)[1]["key"])
        clear = {"type": "m.room_key", "content": {"room_id": room, "session_id": group.session_id, "session_key": group.session_key.to_base64()}}
        kind, body = bob.account.create_outbound_session(theirs, claimed).encrypt(json.dumps(clear).encode()).to_parts()
        bob.call("PUT", f"{V3}/sendToDevice/m.room.encrypted/{secrets.token_hex(8)}", {"messages": {alice.user: {alice.device: {
            "algorithm": "m.olm.v1.curve25519-aes-sha2", "sender_key": mine.to_base64(),
            "ciphertext": {theirs.to_base64(): {"type": kind, "body": unpadded(body)}}}}}})

    def write(text):
        return bob.call("PUT", f"{V3}/rooms/{quote(room)}/send/m.room.encrypted/{secrets.token_hex(8)}", {
            "algorithm": "m.megolm.v1.aes-sha2", "session_id": group.session_id, "device_id": bob.device,
            "sender_key": mine.to_base64(), "ciphertext": group.encrypt(text.encode()).to_base64()})["event_id"]

    def ignore(users):
        alice.call("PUT", f"{V3}/user/{quote(alice.user)}/account_data/m.ignored_user_list", {"ignored_users": {user: {} for user in users}})
        time.sleep(1)

    keys, seen, came, position = {}, {}, [], [alice.sync()["next_batch"]]

    def hear():
        answer = alice.sync(position[0])
        position[0] = answer["next_batch"]
        for event in answer.get("to_device", {}).get("events", []):
            came.append(event["type"])
            (_, message), = event["content"]["ciphertext"].items()
            message = AnyOlmMessage.from_parts(message["type"], base64.b64decode(message["body"] + "==")).to_pre_key()
            content = json.loads(alice.account.create_inbound_session(mine, message)[1])["content"]
            keys[content["session_id"]] = InboundGroupSession(SessionKey(content["session_key"]))
        for event in answer.get("rooms", {}).get("join", {}).get(room, {}).get("timeline", {}).get("events", []):
            if event["type"] == "m.room.encrypted":
                group = keys.get(event["content"]["session_id"])
                seen[event["event_id"]] = bool(group and group.decrypt(MegolmMessage.from_base64(event["content"]["ciphertext"])).plaintext)

    hear()
    ignore([bob.user])
    share()
    first = write("while he is ignored")
    for _ in range(3):
        time.sleep(0.5)
        hear()
    ignore([])
    second = write("later")
    until("the second message", lambda: hear() or second in seen)
    for _ in range(3):
        time.sleep(0.5)
        hear()
    shown = {event["event_id"] for event in alice.call("GET", f"{V3}/rooms/{quote(room)}/messages?dir=b&limit=20")["chunk"]}
    expect(f"{server.name}: to-device messages that came", came, results[0])
    expect("   the message while bob was ignored is there now", first in shown, True)
    expect("   the message after it comes, and can be read", seen[second], results[1])


with Dendrite() as server:
    look(server, ([], False))
with Synapse() as server:
    look(server, (["m.room.encrypted"], True))
print("as seen before")
PYTHON

# Output seen:
#
#     dendrite: to-device messages that came: []
#        the message while bob was ignored is there now: True
#        the message after it comes, and can be read: False
#     synapse: to-device messages that came: ['m.room.encrypted']
#        the message while bob was ignored is there now: True
#        the message after it comes, and can be read: True
#   as seen before
