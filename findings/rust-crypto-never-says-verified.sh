#!/usr/bin/env bash
# The Rust crypto of Element backs up every room key as not verified, also a key of its own that
# its own verified device made. So whoever says the truth replaces Element's keys by worse ones.
#
# Why it matters to an encryption proxy: the specification has the homeserver prefer a key with
# is_verified to one without, before it looks at how far they reach back. A proxied device that
# came later has the last part of a running session, from a device that it trusts. If it says
# so, as it should, the homeserver throws away the whole key that Element had saved, and what
# was said before can never be read from the backup again: Element counts its key as saved and
# does not repeat it. A device that has not the whole of a session must not call it verified.
#
# Seen with @matrix-org/matrix-sdk-crypto-wasm 18.9.0, which matrix-js-sdk 43.0.0 comes with,
# Synapse 1.163.2 and Dendrite v0.15.2.
. "$(dirname "$0")/lib.sh"
pip_install "matrix-synapse==$synapse_version"
build_dendrite
npm install --silent --no-audit --no-fund --no-progress --prefix "$work" @matrix-org/matrix-sdk-crypto-wasm@18.9.0
cat >"$work/common.mjs" <<'NODE'
import * as sdk from "@matrix-org/matrix-sdk-crypto-wasm";
await sdk.initAsync();
export { sdk };
// What is given in a list cannot be used again.
export const alice = "@alice:localhost", user = () => new sdk.UserId(alice), room = () => new sdk.RoomId("!room:localhost");
export const settings = () => new sdk.DecryptionSettings(sdk.TrustRequirement.Untrusted);
export const machine = (device) => sdk.OlmMachine.initialize(user(), new sdk.DeviceId(device));
NODE
cat >"$work/save.mjs" <<'NODE'
// Prints what two devices of Alice save: the first the whole key, the second from message 2 on.
import { sdk, alice, user, room, settings, machine } from "./common.mjs";
const devices = {}, supply = {}, key = sdk.BackupDecryptionKey.createRandomKey();
const answer = (machine, r) => {
  const body = JSON.parse(r.body), device = machine.deviceId.toString();
  if (r.type === sdk.RequestType.KeysUpload) {
    if (body.device_keys) devices[device] = body.device_keys;
    supply[device] = { ...supply[device], ...body.one_time_keys };
    return { one_time_key_counts: { signed_curve25519: 50 } };
  }
  if (r.type === sdk.RequestType.KeysClaim) {
    const asked = body.one_time_keys[alice], given = {};
    for (const one of Object.keys(asked)) given[one] = Object.fromEntries(Object.entries(supply[one]).slice(0, 1));
    return { one_time_keys: { [alice]: given }, failures: {} };
  }
  return r.type === sdk.RequestType.KeysQuery ? { device_keys: { [alice]: devices }, failures: {} } : {};
};
const done = (machine, r) => machine.markRequestAsSent(r.id, r.type, JSON.stringify(answer(machine, r)));
const settle = async (machine) => { for (const r of await machine.outgoingRequests()) await done(machine, r); };
const changed = (machine, events) => machine.receiveSyncChanges(JSON.stringify(events), new sdk.DeviceLists([user()], []),
  new Map([["signed_curve25519", 50]]), new Set(), settings());

const phone = await machine("PHONE"), messages = [];
await settle(phone);
await phone.bootstrapCrossSigning(true);
async function write(shared) {
  const claim = await phone.getMissingSessions([user()]);
  if (claim) await done(phone, claim);
  for (const r of await phone.shareRoomKey(room(), [user()], new sdk.EncryptionSettings())) {
    shared.push({ type: r.event_type, sender: alice, content: JSON.parse(r.body).messages[alice].SECOND });
    await done(phone, r);
  }
  const content = await phone.encryptRoomEvent(room(), "m.room.message", `{"msgtype":"m.text","body":"x"}`);
  messages.push({ type: "m.room.encrypted", sender: alice, event_id: `$${messages.length}`, origin_server_ts: 1, content: JSON.parse(content) });
}
for (let n = 0; n < 2; n++) await write([]);
const second = await machine("SECOND"), shared = [];
await settle(second);
await changed(phone, []);
await settle(phone);
for (let n = 0; n < 2; n++) await write(shared);
await changed(second, shared);

const saved = {};
for (const [name, one] of Object.entries({ phone, second })) {
  await one.saveBackupDecryptionKey(key, "1");
  await one.enableBackupV1(key.megolmV1PublicKey.publicKeyBase64, "1");
  saved[name] = JSON.parse((await one.backupRoomKeys()).body);
}
const own = await phone.getDevice(user(), phone.deviceId);
console.log(JSON.stringify({ key: key.toBase64(), public: key.megolmV1PublicKey.publicKeyBase64, messages, saved, verified: own.isVerified() }));
NODE
cat >"$work/restore.mjs" <<'NODE'
// Prints which messages a new device can read that has the backup and nothing else.
import { readFileSync } from "node:fs";
import { sdk, room, settings, machine } from "./common.mjs";
const { key, messages, backup } = JSON.parse(readFileSync(0, "utf8"));
const decryption = sdk.BackupDecryptionKey.fromBase64(key), fresh = await machine("NEW"), keys = new Map();
for (const [id, { session_data: sealed }] of Object.entries(backup.rooms["!room:localhost"].sessions))
  keys.set(id, JSON.parse(decryption.decryptV1(sealed.ephemeral, sealed.mac, sealed.ciphertext)));
await fresh.importBackedUpRoomKeys(new Map([[room(), keys]]), () => {}, "1");
const readable = [];
for (const event of messages)
  readable.push(await fresh.decryptRoomEvent(JSON.stringify(event), room(), settings()).then(() => true, () => false));
console.log(JSON.stringify(readable));
NODE
run_python <<'PYTHON'
import copy
from homeservers import *


def node(script, stdin=None):
    done = subprocess.run(["node", os.path.join(WORK, script)], input=stdin and json.dumps(stdin), check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


made = node("save.mjs")
whole, part = made["saved"]["phone"], made["saved"]["second"]
entry = lambda body: next(iter(body["rooms"]["!room:localhost"]["sessions"].values()))
says = lambda body: [entry(body)[name] for name in ("is_verified", "first_message_index", "forwarded_count")]
honest = copy.deepcopy(part)
entry(honest)["is_verified"] = True
expect("the device that made the key is verified", made["verified"], True)
expect("Element says of the whole key: verified, first index, forwarded", says(whole), [False, 0, 0])
expect("a device that came later says, if it says the truth", says(honest), [True, 2, 0])


def look(server):
    server.register("alice")
    alice = Client(server.url)
    alice.token = alice.call("POST", V3 + "/login", {"type": "m.login.password", "password": PASSWORD,
                             "identifier": {"type": "m.id.user", "user": "alice"}})["access_token"]
    version = alice.call("POST", V3 + "/room_keys/version", {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2",
                         "auth_data": {"public_key": made["public"], "signatures": {}}})["version"]

    def save(what, body, readable):
        alice.call("PUT", f"{V3}/room_keys/keys?version={version}", body)
        backup = alice.call("GET", f"{V3}/room_keys/keys?version={version}")
        got = node("restore.mjs", {"key": made["key"], "messages": made["messages"], "backup": backup})
        expect(f"{server.name}, {what}: which of four messages are readable", got, readable)

    save("Element saves the whole key", whole, [True] * 4)
    save("then a later device, as not verified", part, [True] * 4)
    save("then the same as verified", honest, [False, False, True, True])
    # Against the words of the specification, but nobody does so: it counts as saved.
    save("the whole key once more", whole, [True] * 4)


with Synapse() as server:
    look(server)
with Dendrite() as server:
    look(server)
print("as seen before")
PYTHON

# Output seen:
#
#     the device that made the key is verified: True
#     Element says of the whole key: verified, first index, forwarded: [False, 0, 0]
#     a device that came later says, if it says the truth: [True, 2, 0]
#     synapse, Element saves the whole key: which of four messages are readable: [True, True, True, True]
#     synapse, then a later device, as not verified: which of four messages are readable: [True, True, True, True]
#     synapse, then the same as verified: which of four messages are readable: [False, False, True, True]
#     synapse, the whole key once more: which of four messages are readable: [True, True, True, True]
#     dendrite, Element saves the whole key: which of four messages are readable: [True, True, True, True]
#     dendrite, then a later device, as not verified: which of four messages are readable: [True, True, True, True]
#     dendrite, then the same as verified: which of four messages are readable: [False, False, True, True]
#     dendrite, the whole key once more: which of four messages are readable: [True, True, True, True]
#   as seen before
