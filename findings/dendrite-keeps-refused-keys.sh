#!/usr/bin/env bash
# Dendrite: one-time keys that the server refuses with 400 are stored all the same, every one
# of the request, and the one that was in the way is overwritten.
#
# Why it matters to an encryption proxy: a proxy whose database came back from a backup makes
# key IDs again that the server has, and is answered "already exists". The natural reading is
# that nothing of the request counts: drop those keys and make others. On Synapse that is
# right: it kept none of them, and goes on giving out the older key, which the restored device
# cannot use. On Dendrite it is what breaks: the server now gives out precisely the refused
# keys, so whoever forgot their private halves cannot read the first message of as many peers
# as there were keys. The safe thing on both is to keep the private halves of what was refused.
#
# Seen with Dendrite v0.15.2 and Synapse 1.163.2, keys by vodozemac 0.10.0.
. "$(dirname "$0")/lib.sh"
pip_install "matrix-synapse==$synapse_version" "vodozemac==$vodozemac_version"
build_dendrite
run_python <<'PYTHON'
from vodozemac import Account, Curve25519PublicKey
from homeservers import *

STORE_KEY = bytes(32)


def look(server, status, results):
    """results says of each key claimed in turn who can read the message sent to it: the
    restored device that kept the refused keys, and the one that forgot them."""
    server.register("alice", "bob")
    alice, bob = Device(server, "alice", "ALICE"), Device(server, "bob", "BOB")
    alice.publish(Account())
    upload = lambda: alice.ask("POST", V3 + "/keys/upload", {"one_time_keys": alice.one_time_keys()})

    alice.account.generate_one_time_keys(2)
    expect(f"{server.name}: two keys", upload()[0], 200)
    alice.account.mark_keys_as_published()
    backup = alice.account.pickle(STORE_KEY)

    alice.account.generate_one_time_keys(1)
    lost = set(alice.one_time_keys())
    expect(f"{server.name}: a third", upload()[0], 200)
    alice.account.mark_keys_as_published()

    # The database comes back from the backup, and two keys are made again: the first has the
    # ID of the third key, the other has one that the server does not know.
    alice.account = Account.from_pickle(backup, STORE_KEY)
    alice.account.generate_one_time_keys(2)
    again = alice.one_time_keys()
    assert len(lost & set(again)) == 1 and len(again) == 2
    got, answer = upload()
    expect(f"{server.name}: two keys after the restore, one of them with a known ID", got, status)
    assert "already exists" in str(answer), answer

    kept, forgot = alice.account, Account.from_pickle(backup, STORE_KEY)
    peer, seen = Account(), []
    while claimed := bob.claim(alice.user, alice.device):
        name, key = claimed
        session = peer.create_outbound_session(alice.account.curve25519_key, Curve25519PublicKey.from_base64(key["key"]))
        message = session.encrypt(b"a room key").to_pre_key()
        can = []
        for account in kept, forgot:
            try:
                account.create_inbound_session(peer.curve25519_key, message)
                can.append(True)
            except Exception as e:
                assert "one-time key" in str(e).lower(), e
                can.append(False)
        which = "before the backup" if name not in again else "refused" if again[name]["key"] == key["key"] else "lost with the restore"
        seen.append((which, *can))
    expect(f"{server.name}: keys given out (which, read by who kept the refused, by who forgot them)", sorted(seen), sorted(results))


OLD = ("before the backup", True, True)
with Dendrite() as server:
    look(server, 400, [OLD, OLD, ("refused", True, False), ("refused", True, False)])
with Synapse() as server:
    look(server, 400, [OLD, OLD, ("lost with the restore", False, False)])
print("as seen before")
PYTHON

# Output seen:
#
#     dendrite: two keys: 200
#     dendrite: a third: 200
#     dendrite: two keys after the restore, one of them with a known ID: 400
#     dendrite: keys given out (which, read by who kept the refused, by who forgot them): [('before the backup', True, True), ('before the backup', True, True), ('refused', True, False), ('refused', True, False)]
#     synapse: two keys: 200
#     synapse: a third: 200
#     synapse: two keys after the restore, one of them with a known ID: 400
#     synapse: keys given out (which, read by who kept the refused, by who forgot them): [('before the backup', True, True), ('before the backup', True, True), ('lost with the restore', False, False)]
#   as seen before
