"""Makes pan.db and secrets.json with pantalaimon's own code.

pip install pantalaimon==0.10.5 matrix-nio[e2e]==0.20.2 python-olm==3.2.16
"""

import json
import os
import sqlite3

import olm
from nio.crypto import InboundGroupSession, InboundSession, OlmAccount
from nio.store import SqliteStore
from pantalaimon.store import PanStore

HERE = os.path.dirname(os.path.abspath(__file__))
ROOM = "!encrypted:hs.example"


class Peer:
    """Another device, which sends a room key and a message over Olm."""

    def __init__(self):
        self.account = olm.Account()
        self.group = olm.OutboundGroupSession()

    def olm(self, account):
        account.generate_one_time_keys(1)
        (one_time_key,) = account.one_time_keys["curve25519"].values()
        account.mark_keys_as_published()
        mine = olm.OutboundSession(self.account, account.identity_keys["curve25519"], one_time_key)
        return mine, mine.encrypt('{"first":"message"}')


def store(user, device):
    return SqliteStore(user, device, HERE, "DEFAULT_KEY", "pan.db")


def keep(st, peer, group, chain=()):
    key = InboundGroupSession(
        group.session_key, peer.account.identity_keys["ed25519"], peer.account.identity_keys["curve25519"], ROOM, list(chain)
    )
    st.save_inbound_group_session(key)


def main():
    path = os.path.join(HERE, "pan.db")
    if os.path.exists(path):
        os.remove(path)
    pan = PanStore(HERE)
    peer = Peer()

    account = OlmAccount()
    account.shared = True
    st = store("@bot:hs.example", "PANTALAIMON")
    st.save_account(account)
    theirs, first = peer.olm(account)
    mine = InboundSession(account, first, peer.account.identity_keys["curve25519"])
    mine.decrypt(first)
    account.remove_one_time_keys(mine)
    account.generate_one_time_keys(3)
    st.save_account(account)
    st.save_session(peer.account.identity_keys["curve25519"], mine)
    second = theirs.encrypt('{"second":"message"}')
    keep(st, peer, peer.group)
    event = peer.group.encrypt('{"type":"m.room.message","content":{"body":"for pantalaimon"},"room_id":"%s"}' % ROOM)
    keep(st, peer, olm.OutboundGroupSession(), ["forwarded+by+this+key"])
    st.save_encrypted_rooms([ROOM])

    # A device from before, of which only the room keys are of use.
    old = store("@bot:hs.example", "BEFORE")
    before = OlmAccount()
    before.shared = True
    old.save_account(before)
    keep(old, peer, olm.OutboundGroupSession())

    # One whose token is in the system's keyring, and one of another homeserver.
    ring = store("@keyring:hs.example", "RING")
    ring.save_account(OlmAccount())
    other = store("@other:elsewhere.example", "OTHER")
    other.save_account(OlmAccount())

    # Pickles that nobody here can read: of another key, and of nio with vodozemac.
    strange = SqliteStore("@strange:hs.example", "STRANGE", HERE, "ANOTHER_KEY", "pan.db")
    strange.save_account(OlmAccount())

    for user in ("@bot:hs.example", "@keyring:hs.example", "@strange:hs.example"):
        pan.save_server_user("local", user)
    pan.save_server_user("elsewhere", "@other:elsewhere.example")
    pan.save_access_token("@bot:hs.example", "PANTALAIMON", "token-of-pantalaimon")
    pan.save_access_token("@strange:hs.example", "STRANGE", "token-of-strange")
    pan.database.close()

    db = sqlite3.connect(path)
    (account_id,) = db.execute("SELECT id FROM accounts WHERE device_id = 'PANTALAIMON'").fetchone()
    db.execute(
        "INSERT INTO megolminboundsessions (sender_key, account_id, fp_key, room_id, session, session_id) VALUES (?,?,?,?,?,?)",
        ("k", account_id, "f", ROOM, b"a pickle of vodozemac is JSON under another cipher", "unreadable"),
    )
    db.commit()
    db.execute("PRAGMA journal_mode = DELETE")
    db.execute("PRAGMA page_size = 512")
    db.execute("VACUUM")
    db.close()
    with open(os.path.join(HERE, "secrets.json"), "w") as out:
        json.dump(
            {
                "ed25519": account.identity_keys["ed25519"],
                "curve25519": account.identity_keys["curve25519"],
                "peer_curve25519": peer.account.identity_keys["curve25519"],
                "olm_message": {"type": second.message_type, "body": second.ciphertext},
                "session_id": peer.group.id,
                "megolm_message": event,
            },
            out,
            indent=1,
            sort_keys=True,
        )


main()
