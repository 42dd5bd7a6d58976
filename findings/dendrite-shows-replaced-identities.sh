#!/usr/bin/env bash
# Dendrite: when several users of another server are asked about in one /keys/query, one of them, by chance, is
# looked at anew. Of the others the devices are those of now and the identity is the one that
# Dendrite saw last: if it was replaced while no room was shared, none of their devices is signed by it.
#
# Why it matters to an encryption proxy: whoever comes into a room asks about all its members at once, and
# only once, because afterwards changes are announced. Somebody who lost everything, made a new
# identity and comes back is then somebody with the old identity and with devices that it did
# not sign: nobody who keeps to MSC4153 gives them a room key, and nothing is announced, because it
# was before. Asked about alone, everybody is shown as they are. So an answer about several users
# in which all devices of one are signed by another key than the identity that is shown has to be
# asked for again, for this user alone. Synapse looks at each of them anew.
#
# Seen with Dendrite v0.15.2 and Synapse 1.163.2, keys by vodozemac 0.10.0 and PyNaCl 1.6.2.
. "$(dirname "$0")/lib.sh"
pip_install "matrix-synapse==$synapse_version" "vodozemac==$vodozemac_version" "pynacl==1.6.2"
build_dendrite
run_python <<'PYTHON'
import collections
import nacl.signing
from vodozemac import Account
from homeservers import *

text = lambda raw: base64.b64encode(bytes(raw)).decode().rstrip("=")
public = lambda key: text(key.verify_key)
USERS = ["bob", "carol", "dave", "erin"]


def signed(obj, user, key):
    signatures = {user: {"ed25519:" + public(key): text(key.sign(canonical(obj)).signature)}}
    return {name: value for name, value in obj.items() if name not in ("signatures", "unsigned")} | {"signatures": signatures}


def new_identity(device):
    """Makes an identity that signs the device, and returns its self-signing key."""
    keys, body = {usage: nacl.signing.SigningKey.generate() for usage in ("master", "self_signing")}, {}
    for usage, key in keys.items():
        obj = {"user_id": device.user, "usage": [usage], "keys": {"ed25519:" + public(key): public(key)}}
        body[usage + "_key"] = obj if usage == "master" else signed(obj, device.user, keys["master"])
    path = V3 + "/keys/device_signing/upload"
    status, answer = device.ask("POST", path, body)
    if status == 401:
        device.call("POST", path, body | {"auth": {
            "type": "m.login.password", "session": answer["session"], "password": PASSWORD,
            "identifier": {"type": "m.id.user", "user": device.user}}})
    mine = device.call("POST", V3 + "/keys/query", {"device_keys": {device.user: []}})["device_keys"][device.user][device.device]
    answer = device.call("POST", V3 + "/keys/signatures/upload", {device.user: {device.device: signed(mine, device.user, keys["self_signing"])}})
    if answer.get("failures"):
        sys.exit(f"CHANGED: the signature fails: {answer}")
    return public(keys["self_signing"])


def look(home, other, old):
    """old is how many of the users are shown with their old identity."""
    home.register("alice")
    other.register(*USERS)
    alice = Device(home, "alice", "ALICE")
    alice.publish(Account())
    devices, before, now = [Device(other, user, user.upper()) for user in USERS], {}, {}
    for device in devices:
        device.publish(Account())
        now[device.user] = new_identity(device)

    def meet(device):
        """A room for alice and one of them."""
        room = alice.call("POST", V3 + "/createRoom", {"preset": "private_chat", "invite": [device.user]})["room_id"]
        until("the invite", lambda: room in device.sync().get("rooms", {}).get("invite", {}))
        device.call("POST", f"{V3}/rooms/{quote(room)}/join", {})
        until("the join", lambda: device.user in alice.call("GET", f"{V3}/rooms/{quote(room)}/joined_members")["joined"])
        return room

    def shown(some):
        """How many are shown with which identity, and which signed their device."""
        answer, counts = alice.call("POST", V3 + "/keys/query", {"device_keys": {device.user: [] for device in some}}), collections.Counter()
        for user in (device.user for device in some):
            key = next(iter(answer["self_signing_keys"][user]["keys"].values()))
            (keys,) = answer["device_keys"][user].values()
            identity = "new" if key == now[user] else "old" if key == before.get(user) else "unknown"
            by = {"ed25519:" + now[user]: "new", "ed25519:" + before.get(user, ""): "old"}
            counts[f"{identity} identity, device signed by " + " and ".join(by[name] for name in by if name in keys["signatures"][user])] += 1
        return dict(sorted(counts.items()))

    each = lambda: dict(sum((collections.Counter(shown([device])) for device in devices), collections.Counter()))
    good = {"new identity, device signed by new": len(USERS)}
    rooms = [meet(device) for device in devices]
    expect(f"{home.name}: one by one", each(), good)
    expect(f"{home.name}: all at once", shown(devices), good)
    for room, device in zip(rooms, devices):
        device.call("POST", f"{V3}/rooms/{quote(room)}/leave", {})
        until("the leave", lambda: device.user not in alice.call("GET", f"{V3}/rooms/{quote(room)}/joined_members")["joined"])
    time.sleep(3)
    before = dict(now)
    for i, old_device in enumerate(devices):
        devices[i] = device = Device(other, USERS[i], "NEW")
        device.publish(Account())
        old_device.call("POST", V3 + "/logout", {})
        now[device.user] = new_identity(device)
    time.sleep(3)
    for device in devices:
        meet(device)
    mixed = {"new identity, device signed by new": len(USERS) - old} | ({"old identity, device signed by new": old} if old else {})
    expect(f"{home.name}, with new identities: all at once", shown(devices), mixed)
    expect(f"{home.name}, with new identities: one by one", each(), good)
    expect(f"{home.name}, with new identities: all at once again", shown(devices), good)


with Dendrite(federation=True) as dendrite, Synapse(federation=True) as synapse:
    look(dendrite, synapse, old=len(USERS) - 1)
with Dendrite(federation=True) as dendrite, Synapse(federation=True) as synapse:
    look(synapse, dendrite, old=0)
print("as seen before")
PYTHON

# Output seen:
#
#     dendrite: one by one: {'new identity, device signed by new': 4}
#     dendrite: all at once: {'new identity, device signed by new': 4}
#     dendrite, with new identities: all at once: {'new identity, device signed by new': 1, 'old identity, device signed by new': 3}
#     dendrite, with new identities: one by one: {'new identity, device signed by new': 4}
#     dendrite, with new identities: all at once again: {'new identity, device signed by new': 4}
#     synapse: one by one: {'new identity, device signed by new': 4}
#     synapse: all at once: {'new identity, device signed by new': 4}
#     synapse, with new identities: all at once: {'new identity, device signed by new': 4}
#     synapse, with new identities: one by one: {'new identity, device signed by new': 4}
#     synapse, with new identities: all at once again: {'new identity, device signed by new': 4}
#   as seen before
