#!/usr/bin/env bash
# Dendrite: that a device was confirmed by its owner does not reach the users of another server that
# has the device's keys already, then or later; and when a device is renamed, those servers lose
# the signature that they had. When the device uploads its keys again with both signatures in them,
# it is seen as confirmed at once, and stays so.
#
# Why it matters to an encryption proxy: a device uploads its keys first and is confirmed a moment
# later, by its owner or by itself, and Synapse looks at them in between, whenever a room is
# shared with one of its users. From then on they see a device that nobody confirmed, while its owner,
# everybody on its own server and the proxy itself see the signature. Whoever keeps to MSC4153
# gives it no room keys and reads nothing of it. Reading the signature back proves nothing. What
# goes to other servers is the object of the device's own upload: so the proxy has to upload the
# device's keys once more after it was confirmed, with its owner's signature beside its own, after
# each new identity too. Synapse passes signatures on by itself, and the second upload changes nothing.
#
# Seen with Dendrite v0.15.2 and Synapse 1.163.2, keys by vodozemac 0.10.0 and PyNaCl 1.6.2.
. "$(dirname "$0")/lib.sh"
pip_install "matrix-synapse==$synapse_version" "vodozemac==$vodozemac_version" "pynacl==1.6.2"
build_dendrite
run_python <<'PYTHON'
import nacl.signing
from vodozemac import Account
from homeservers import *

text = lambda raw: base64.b64encode(bytes(raw)).decode().rstrip("=")
public = lambda key: text(key.verify_key)
YES, NO, HIS = "signed", "not signed", ["bob"]


def signed(obj, user, key):
    """The object with one more signature."""
    signature = {"ed25519:" + public(key): text(key.sign(canonical(obj)).signature)}
    bare = {name: value for name, value in obj.items() if name not in ("signatures", "unsigned")}
    return bare | {"signatures": {user: obj.get("signatures", {}).get(user, {}) | signature}}


class Owner:
    """Bob, and what alice is told and sees of him on another server."""

    def __init__(self, home, other):
        home.register("bob")
        other.register("alice")
        self.home, self.alice = home, Device(other, "alice", "ALICE")
        self.phone = Device(home, "bob", "PHONE")
        self.user, self.devices = self.phone.user, []
        self.add(self.phone)
        self.new_identity()
        self.confirm(self.phone)
        room = self.alice.call("POST", V3 + "/createRoom", {"preset": "private_chat", "invite": [self.user]})["room_id"]
        until("the invite", lambda: room in self.phone.sync().get("rooms", {}).get("invite", {}))
        self.phone.call("POST", f"{V3}/rooms/{quote(room)}/join", {})
        until("bob to be in", lambda: self.user in self.alice.call("GET", f"{V3}/rooms/{quote(room)}/joined_members")["joined"])
        self.position = self.alice.sync()["next_batch"]
        self.told()

    def add(self, device):
        device.publish(Account())
        self.devices.append(device)

    def new_identity(self):
        keys = {usage: nacl.signing.SigningKey.generate() for usage in ("master", "self_signing")}
        body = {}
        for usage, key in keys.items():
            obj = {"user_id": self.user, "usage": [usage], "keys": {"ed25519:" + public(key): public(key)}}
            body[usage + "_key"] = obj if usage == "master" else signed(obj, self.user, keys["master"])
        path = V3 + "/keys/device_signing/upload"
        status, answer = self.phone.ask("POST", path, body)
        if status == 401:
            self.phone.call("POST", path, body | {"auth": {
                "type": "m.login.password", "session": answer["session"], "password": PASSWORD,
                "identifier": {"type": "m.id.user", "user": self.user}}})
        self.key = keys["self_signing"]

    def keys(self, by):
        answer = by.call("POST", V3 + "/keys/query", {"device_keys": {self.user: []}})
        if "ed25519:" + public(self.key) not in answer["self_signing_keys"][self.user]["keys"]:
            sys.exit(f"CHANGED: {by.device} does not see the identity")
        return answer["device_keys"][self.user]

    def confirm(self, device):
        answer = self.phone.call("POST", V3 + "/keys/signatures/upload",
                                 {self.user: {device.device: signed(self.keys(self.phone)[device.device], self.user, self.key)}})
        if answer.get("failures"):
            sys.exit(f"CHANGED: the confirmation fails: {answer}")

    def rename(self, device):
        device.call("PUT", f"{V3}/devices/{device.device}", {"display_name": secrets.token_hex(4)})

    def upload_signed(self, device):
        keys = self.keys(self.phone)[device.device]
        own = {name: keys["signatures"][self.user][name] for name in ("ed25519:" + device.device, "ed25519:" + public(self.key))}
        device.call("POST", V3 + "/keys/upload", {"device_keys": {name: value for name, value in keys.items() if name != "unsigned"} |
                                                  {"signatures": {self.user: own}}})

    def told(self):
        """Whether alice is told within three seconds that bob's devices changed."""
        changed, end = set(), time.monotonic() + 3
        while time.monotonic() < end:
            answer = self.alice.sync(self.position)
            self.position = answer["next_batch"]
            changed |= set(answer.get("device_lists", {}).get("changed") or [])
            time.sleep(0.2)
        return ["bob"] if self.user in changed else []

    def step(self, what, told, alice, bob):
        now = self.told()
        seen = lambda by: {name: YES if "ed25519:" + public(self.key) in keys["signatures"][self.user] else NO
                           for name, keys in sorted(self.keys(by).items())}
        expect(f"{self.home.name}, {what}: alice is told of", now, told)
        expect("   bob sees his devices", seen(self.phone), bob)
        expect("   alice sees his devices", seen(self.alice), alice)


def look(owner, passes):
    """passes says whether the server passes signatures on by itself."""
    later = YES if passes else NO
    both = lambda what: {"NEW": what, "PHONE": what}
    owner.step("confirmed before the room was shared", [], {"PHONE": YES}, {"PHONE": YES})
    new = Device(owner.home, "bob", "NEW")
    owner.add(new)
    owner.step("a new device", HIS, {"NEW": NO, "PHONE": YES}, {"NEW": NO, "PHONE": YES})
    owner.confirm(new)
    owner.step("the new device is confirmed", HIS if passes else [], {"NEW": later, "PHONE": YES}, both(YES))
    owner.rename(owner.phone)
    owner.step("the confirmed device is renamed", [] if passes else HIS, both(later), both(YES))
    for device in owner.devices:
        owner.upload_signed(device)
    owner.step("the keys are uploaded with the signatures", [] if passes else HIS, both(YES), both(YES))
    for device in owner.devices:
        owner.rename(device)
    owner.step("both are renamed", [] if passes else HIS, both(YES), both(YES))
    owner.new_identity()
    for device in owner.devices:
        owner.confirm(device)
    owner.step("a new identity, which confirms both", HIS, both(later), both(YES))
    for device in owner.devices:
        owner.upload_signed(device)
    owner.step("the keys are uploaded with its signatures", [] if passes else HIS, both(YES), both(YES))


with Synapse(federation=True) as synapse, Dendrite(federation=True) as dendrite:
    look(Owner(dendrite, synapse), passes=False)
    look(Owner(synapse, dendrite), passes=True)
print("as seen before")
PYTHON

# Output seen:
#
#     dendrite, confirmed before the room was shared: alice is told of: []
#        bob sees his devices: {'PHONE': 'signed'}
#        alice sees his devices: {'PHONE': 'signed'}
#     dendrite, a new device: alice is told of: ['bob']
#        bob sees his devices: {'NEW': 'not signed', 'PHONE': 'signed'}
#        alice sees his devices: {'NEW': 'not signed', 'PHONE': 'signed'}
#     dendrite, the new device is confirmed: alice is told of: []
#        bob sees his devices: {'NEW': 'signed', 'PHONE': 'signed'}
#        alice sees his devices: {'NEW': 'not signed', 'PHONE': 'signed'}
#     dendrite, the confirmed device is renamed: alice is told of: ['bob']
#        bob sees his devices: {'NEW': 'signed', 'PHONE': 'signed'}
#        alice sees his devices: {'NEW': 'not signed', 'PHONE': 'not signed'}
#     dendrite, the keys are uploaded with the signatures: alice is told of: ['bob']
#        bob sees his devices: {'NEW': 'signed', 'PHONE': 'signed'}
#        alice sees his devices: {'NEW': 'signed', 'PHONE': 'signed'}
#     dendrite, both are renamed: alice is told of: ['bob']
#        bob sees his devices: {'NEW': 'signed', 'PHONE': 'signed'}
#        alice sees his devices: {'NEW': 'signed', 'PHONE': 'signed'}
#     dendrite, a new identity, which confirms both: alice is told of: ['bob']
#        bob sees his devices: {'NEW': 'signed', 'PHONE': 'signed'}
#        alice sees his devices: {'NEW': 'not signed', 'PHONE': 'not signed'}
#     dendrite, the keys are uploaded with its signatures: alice is told of: ['bob']
#        bob sees his devices: {'NEW': 'signed', 'PHONE': 'signed'}
#        alice sees his devices: {'NEW': 'signed', 'PHONE': 'signed'}
#     synapse, confirmed before the room was shared: alice is told of: []
#        bob sees his devices: {'PHONE': 'signed'}
#        alice sees his devices: {'PHONE': 'signed'}
#     synapse, a new device: alice is told of: ['bob']
#        bob sees his devices: {'NEW': 'not signed', 'PHONE': 'signed'}
#        alice sees his devices: {'NEW': 'not signed', 'PHONE': 'signed'}
#     synapse, the new device is confirmed: alice is told of: ['bob']
#        bob sees his devices: {'NEW': 'signed', 'PHONE': 'signed'}
#        alice sees his devices: {'NEW': 'signed', 'PHONE': 'signed'}
#     synapse, the confirmed device is renamed: alice is told of: []
#        bob sees his devices: {'NEW': 'signed', 'PHONE': 'signed'}
#        alice sees his devices: {'NEW': 'signed', 'PHONE': 'signed'}
#     synapse, the keys are uploaded with the signatures: alice is told of: []
#        bob sees his devices: {'NEW': 'signed', 'PHONE': 'signed'}
#        alice sees his devices: {'NEW': 'signed', 'PHONE': 'signed'}
#     synapse, both are renamed: alice is told of: []
#        bob sees his devices: {'NEW': 'signed', 'PHONE': 'signed'}
#        alice sees his devices: {'NEW': 'signed', 'PHONE': 'signed'}
#     synapse, a new identity, which confirms both: alice is told of: ['bob']
#        bob sees his devices: {'NEW': 'signed', 'PHONE': 'signed'}
#        alice sees his devices: {'NEW': 'signed', 'PHONE': 'signed'}
#     synapse, the keys are uploaded with its signatures: alice is told of: []
#        bob sees his devices: {'NEW': 'signed', 'PHONE': 'signed'}
#        alice sees his devices: {'NEW': 'signed', 'PHONE': 'signed'}
#   as seen before
