#!/usr/bin/env bash
# Dendrite: a device whose keys have a field that Dendrite does not know is shown without it from
# the moment on when its owner confirms it, so that its own signature is not right any more and
# everybody drops the device. The same with the fields of cross-signing keys, from the beginning.
#
# Why it matters to an encryption proxy: device keys are a signed object that others may extend:
# dehydrated devices (MSC3814) say "dehydrated", devices that only send say "do_not_encrypt"
# (MSC4261), those that an application service made say by whom (MSC4350). Such a device can be used
# as long as it is not confirmed. To confirm it, which is what makes a device good for those who
# keep to MSC4153, destroys it: it vanishes from everybody's list without an error for anybody.
# So a proxy must put no field into its device keys that is not in the specification, and
# after confirming a device it must read it back and check both signatures, not only the new one.
# Synapse keeps every field.
#
# Seen with Dendrite v0.15.2 and Synapse 1.163.2, keys by vodozemac 0.10.0 and PyNaCl 1.6.2.
. "$(dirname "$0")/lib.sh"
pip_install "matrix-synapse==$synapse_version" "vodozemac==$vodozemac_version" "pynacl==1.6.2"
build_dendrite
run_python <<'PYTHON'
from nacl.signing import SigningKey, VerifyKey
from vodozemac import Account
from homeservers import *

FIELDS = {"nothing more": {}, "dehydrated": {"dehydrated": True}, "do_not_encrypt": {"org.matrix.msc4261.do_not_encrypt": True}}
text = lambda raw: base64.b64encode(raw).decode().rstrip("=")
raw = lambda text: base64.b64decode(text + "=" * (-len(text) % 4))


class Key:
    """A cross-signing key."""

    def __init__(self, user, usage, more={}):
        self.private = SigningKey.generate()
        self.public = text(bytes(self.private.verify_key))
        self.name, self.user = "ed25519:" + self.public, user
        self.object = {"user_id": user, "usage": [usage], "keys": {self.name: self.public}} | more

    def sign(self, obj):
        signature = text(self.private.sign(canonical(obj)).signature)
        return obj | {"signatures": {self.user: obj.get("signatures", {}).get(self.user, {}) | {self.name: signature}}}


def good(obj, user, name, public):
    """Whether the object has a good signature by this key."""
    signature = obj.get("signatures", {}).get(user, {}).get(name)
    if not signature:
        return "none"
    try:
        VerifyKey(raw(public)).verify(canonical(obj), raw(signature))
        return "good"
    except Exception:
        return "bad"


def upload(device, keys):
    status, answer = device.ask("POST", V3 + "/keys/device_signing/upload", keys)
    if status == 401:
        device.call("POST", V3 + "/keys/device_signing/upload", keys | {"auth": {
            "type": "m.login.password", "session": answer["session"], "password": PASSWORD,
            "identifier": {"type": "m.id.user", "user": device.user}}})


def look(server, keeps):
    """keeps says whether the server keeps what it does not know."""
    for number, (what, more) in enumerate(FIELDS.items()):
        name = f"u{number}"
        server.register(name, "peer" + name)
        device, peer = Device(server, name, "PHONE"), Device(server, "peer" + name, "PEER")
        device.account = account = Account()
        keys = device.sign({"user_id": device.user, "device_id": "PHONE", "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
                            "keys": {"curve25519:PHONE": account.curve25519_key.to_base64(), "ed25519:PHONE": account.ed25519_key.to_base64()}} | more)
        device.call("POST", V3 + "/keys/upload", {"device_keys": keys})
        master, selves = Key(device.user, "master"), Key(device.user, "self_signing")

        def seen():
            """The signatures of the device by itself and its owner, as a peer sees it."""
            shown = peer.call("POST", V3 + "/keys/query", {"device_keys": {device.user: []}})["device_keys"][device.user]["PHONE"]
            return {"itself": good(shown, device.user, "ed25519:PHONE", account.ed25519_key.to_base64()),
                    "owner": good(shown, device.user, selves.name, selves.public)}

        expect(f"{server.name}, {what}: device", seen(), {"itself": "good", "owner": "none"})
        upload(device, {"master_key": master.object, "self_signing_key": master.sign(selves.object)})
        answer = device.call("POST", V3 + "/keys/signatures/upload", {device.user: {"PHONE": selves.sign(keys)}})
        expect(f"{server.name}, {what}: failures of the confirmation", answer.get("failures", {}), {})
        fine = "good" if keeps or not more else "bad"
        expect(f"{server.name}, {what}: device, confirmed", seen(), {"itself": fine, "owner": fine})

    server.register("owner")
    device = Device(server, "owner", "PHONE")
    master = Key(device.user, "master", {"org.example.since": 2026})
    selves = Key(device.user, "self_signing", {"org.example.since": 2026})
    upload(device, {"master_key": master.object, "self_signing_key": master.sign(selves.object)})
    shown = device.call("POST", V3 + "/keys/query", {"device_keys": {device.user: []}})["self_signing_keys"][device.user]
    expect(f"{server.name}, a self-signing key with a field of its own: signature by the master key",
           good(shown, device.user, master.name, master.public), "good" if keeps else "bad")


with Synapse() as server:
    look(server, keeps=True)
with Dendrite() as server:
    look(server, keeps=False)
print("as seen before")
PYTHON

# Output seen:
#
#     synapse, nothing more: device: {'itself': 'good', 'owner': 'none'}
#     synapse, nothing more: failures of the confirmation: {}
#     synapse, nothing more: device, confirmed: {'itself': 'good', 'owner': 'good'}
#     synapse, dehydrated: device: {'itself': 'good', 'owner': 'none'}
#     synapse, dehydrated: failures of the confirmation: {}
#     synapse, dehydrated: device, confirmed: {'itself': 'good', 'owner': 'good'}
#     synapse, do_not_encrypt: device: {'itself': 'good', 'owner': 'none'}
#     synapse, do_not_encrypt: failures of the confirmation: {}
#     synapse, do_not_encrypt: device, confirmed: {'itself': 'good', 'owner': 'good'}
#     synapse, a self-signing key with a field of its own: signature by the master key: 'good'
#     dendrite, nothing more: device: {'itself': 'good', 'owner': 'none'}
#     dendrite, nothing more: failures of the confirmation: {}
#     dendrite, nothing more: device, confirmed: {'itself': 'good', 'owner': 'good'}
#     dendrite, dehydrated: device: {'itself': 'good', 'owner': 'none'}
#     dendrite, dehydrated: failures of the confirmation: {}
#     dendrite, dehydrated: device, confirmed: {'itself': 'bad', 'owner': 'bad'}
#     dendrite, do_not_encrypt: device: {'itself': 'good', 'owner': 'none'}
#     dendrite, do_not_encrypt: failures of the confirmation: {}
#     dendrite, do_not_encrypt: device, confirmed: {'itself': 'bad', 'owner': 'bad'}
#     dendrite, a self-signing key with a field of its own: signature by the master key: 'bad'
#   as seen before
