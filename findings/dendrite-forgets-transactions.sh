#!/usr/bin/env bash
# Dendrite: transaction IDs are forgotten when it restarts or the device logs in again, and are not known
# while the first request is under way. A message that is repeated then, because its answer was lost
# or did not come in time, is a second event. Synapse gives the first one's ID.
#
# Why it matters to an encryption proxy: "repeat the same ciphertext with the same transaction ID" is
# how a message is neither lost nor doubled, and it is just when a machine restarts or is slow that
# answers are lost, on the proxy and on the homeserver alike. What comes out is not only a double: both
# events are the same message of the same session, which a receiver must take for a replay. The
# clients that check refuse one of the two, and those that do not, as Element's, show both. So a
# repetition has to wait for the first request, and before a message is repeated of which nobody
# knows what became, the room has to be looked at for its ciphertext. A room key that is sent again to devices arrives twice on both servers, which
# is to be harmless.
#
# Seen with Dendrite v0.15.2 and Synapse 1.163.2, ciphertexts by vodozemac 0.10.0.
. "$(dirname "$0")/lib.sh"
pip_install "matrix-synapse==$synapse_version" "vodozemac==$vodozemac_version"
build_dendrite
run_python <<'PYTHON'
from concurrent.futures import ThreadPoolExecutor
from vodozemac import GroupSession, InboundGroupSession, MegolmMessage
from homeservers import *


def look(server, remembers):
    """remembers says whether the server knows a transaction after a restart and a new login."""
    server.register("alice", "bob")
    alice, bob = Device(server, "alice", "ALICE"), Device(server, "bob", "BOB")
    room = alice.call("POST", V3 + "/createRoom", {"preset": "public_chat", "initial_state": [
        {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}]})["room_id"]
    bob.call("POST", f"{V3}/rooms/{quote(room)}/join", {})
    session = GroupSession()
    reader = InboundGroupSession(session.session_key)
    encrypt = lambda text: {"algorithm": "m.megolm.v1.aes-sha2", "session_id": session.session_id,
                            "ciphertext": session.encrypt(text.encode()).to_base64()}
    send = lambda txn, content: alice.call("PUT", f"{V3}/rooms/{quote(room)}/send/m.room.encrypted/{txn}", content)["event_id"]
    to_bob = lambda: alice.call("PUT", f"{V3}/sendToDevice/m.room.encrypted/key", {"messages": {bob.user: {"BOB": {"x": 1}}}})

    one, two = encrypt("one"), encrypt("two")
    first, second = send("1", one), send("2", two)
    to_bob()
    expect(f"{server.name}: repeated at once, the same event", send("1", one) == first, True)

    server.stop()
    server.start()
    expect(f"{server.name}: repeated after a restart, the same event", send("1", one) == first, remembers)
    expect(f"{server.name}: repeated at once again, the same event", send("1", one) == first, remembers)
    send("2", two)
    alice.token = Device(server, "alice", "ALICE").token
    last = send("2", two)
    expect(f"{server.name}: repeated after a new login of the device, the same event", last == second, remembers)

    shown, page = [], lambda: bob.call("GET", f"{V3}/rooms/{quote(room)}/messages?dir=b&limit=50")["chunk"][::-1]
    for event in until("the last message", lambda: (events := page()) and last in [e["event_id"] for e in events] and events):
        if event["type"] == "m.room.encrypted":
            read = reader.decrypt(MegolmMessage.from_base64(event["content"]["ciphertext"]))
            shown.append((read.plaintext.decode(), read.message_index))
    expect(f"{server.name}: messages and their index, as others read them", shown,
           [("one", 0), ("two", 1)] if remembers else [("one", 0), ("two", 1), ("one", 0), ("two", 1), ("two", 1)])
    to_bob()
    copies = until("the messages to the device", lambda: bob.sync().get("to_device", {}).get("events"))
    expect(f"{server.name}: copies of a message to a device that was repeated", len(copies), 2)

    three = encrypt("three")
    with ThreadPoolExecutor(8) as pool:
        events = set(pool.map(lambda _: send("3", three), range(8)))
    print(f"  {server.name}: 8 requests at once, {len(events)} events")
    expect(f"{server.name}: requests at once become one event", len(events) == 1, remembers)


with Synapse() as server:
    look(server, True)
with Dendrite() as server:
    look(server, False)
print("as seen before")
PYTHON

# Output seen (of the last one the number differs from run to run):
#
#     synapse: repeated at once, the same event: True
#     synapse: repeated after a restart, the same event: True
#     synapse: repeated at once again, the same event: True
#     synapse: repeated after a new login of the device, the same event: True
#     synapse: messages and their index, as others read them: [('one', 0), ('two', 1)]
#     synapse: copies of a message to a device that was repeated: 2
#     synapse: 8 requests at once, 1 events
#     synapse: requests at once become one event: True
#     dendrite: repeated at once, the same event: True
#     dendrite: repeated after a restart, the same event: False
#     dendrite: repeated at once again, the same event: False
#     dendrite: repeated after a new login of the device, the same event: False
#     dendrite: messages and their index, as others read them: [('one', 0), ('two', 1), ('one', 0), ('two', 1), ('two', 1)]
#     dendrite: copies of a message to a device that was repeated: 2
#     dendrite: 8 requests at once, 8 events
#     dendrite: requests at once become one event: False
#   as seen before
