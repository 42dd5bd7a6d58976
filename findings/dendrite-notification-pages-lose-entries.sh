#!/usr/bin/env bash
# Dendrite: whoever reads the list of notifications page by page misses one entry between every
# two pages, and gets the oldest page first.
#
# Why it matters to an encryption proxy: what notifies is decided by the clear event, which the
# server cannot see, so a proxy takes entries out of the list, puts others into it, and for that
# reads it in pieces: it asks for what still fits, and goes on from the token. With pages of one
# entry half of all notifications are never seen, without an error and with a list that ends as
# it should. A mention can be lost by nothing but the size of a page, so a proxy must ask for
# pages that are as large as they may be, and must not merge by the order of time.
#
# Synapse gives the newest first, and loses nothing.
#
# Seen with Dendrite v0.15.2 and Synapse 1.163.2.
. "$(dirname "$0")/lib.sh"
pip_install "matrix-synapse==$synapse_version" "vodozemac==$vodozemac_version"
build_dendrite
run_python <<'PYTHON'
from homeservers import *


def look(server, pages):
    server.register("alice", "bob")
    alice, bob = Device(server, "alice", "ALICE"), Device(server, "bob", "BOB")
    room = alice.call("POST", V3 + "/createRoom", {"preset": "private_chat", "invite": [bob.user]})["room_id"]
    bob.call("POST", f"{V3}/rooms/{quote(room)}/join", {})
    sent = {}
    for n in range(6):
        content = {"algorithm": "m.megolm.v1.aes-sha2", "session_id": "x", "ciphertext": f"AwgAEg{n}"}
        event = alice.call("PUT", f"{V3}/rooms/{quote(room)}/send/m.room.encrypted/{n}", content)["event_id"]
        sent[event] = n

    def entries(limit, token=None):
        page = bob.call("GET", f"{V3}/notifications?limit={limit}" + (f"&from={quote(token)}" if token else ""))
        # Two entries before them, of the invitation, are left out.
        return [sent.get(n["event"].get("event_id")) for n in page["notifications"]], page.get("next_token")

    until("the notifications", lambda: set(sent.values()) <= set(entries(50)[0]))
    expect(f"{server.name}: in one page", [n for n in entries(50)[0] if n is not None], pages["whole"])
    for limit in (1, 2):
        seen, token = [], None
        for _ in range(20):
            page, token = entries(limit, token)
            seen += page
            if not token or not page:
                break
        expect(f"{server.name}: page by page, {limit} each", [n for n in seen if n is not None], pages[limit])


with Dendrite() as server:
    look(server, {"whole": [0, 1, 2, 3, 4, 5], 1: [0, 2, 4], 2: [1, 2, 4, 5]})
with Synapse() as server:
    look(server, {"whole": [5, 4, 3, 2, 1, 0], 1: [5, 4, 3, 2, 1, 0], 2: [5, 4, 3, 2, 1, 0]})
print("as seen before")
PYTHON

# Output seen:
#
#     dendrite: in one page: [0, 1, 2, 3, 4, 5]
#     dendrite: page by page, 1 each: [0, 2, 4]
#     dendrite: page by page, 2 each: [1, 2, 4, 5]
#     synapse: in one page: [5, 4, 3, 2, 1, 0]
#     synapse: page by page, 1 each: [5, 4, 3, 2, 1, 0]
#     synapse: page by page, 2 each: [5, 4, 3, 2, 1, 0]
#   as seen before
