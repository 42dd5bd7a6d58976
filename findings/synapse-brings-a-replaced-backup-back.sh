#!/usr/bin/env bash
# Synapse: when the newest key backup is deleted, the one that it had replaced is the account's
# backup again. Element's library (rust-crypto) takes it for good by its old signature, and
# uploads every room key anew, encrypted for the key that was replaced.
#
# Why it matters to an encryption proxy: a backup is replaced because its key has become known, or
# the recovery key has been lost; and later the new one is deleted, which says "no backup". After that
# all keys of the account lie on the homeserver for whoever has the old key, and every client agrees,
# because the rule (signed by the identity, so it may be written to) knows no time. So a
# client must remember which version it has used and never go back to an older one with another
# key unless a person says so, and whoever switches the backup off must delete every version. On
# Dendrite nothing comes back: the account has no backup then, though the old one is still
# there for reading and cannot be written to.
#
# Seen with Synapse 1.163.2, Dendrite v0.15.2 and @matrix-org/matrix-sdk-crypto-wasm 18.9.0.
. "$(dirname "$0")/lib.sh"
pip_install "matrix-synapse==$synapse_version"
build_dendrite
cd "$work"
npm install --silent --no-audit --no-fund --no-progress --prefix "$work" @matrix-org/matrix-sdk-crypto-wasm@18.9.0
cat >"$work/element.mjs" <<'NODE'
// An account with an identity. Each line read is a command, each written its answer: "write"
// makes a room key, "make" gives a backup as the library makes it, "use VERSION" what it thinks of
// one that the homeserver shows, and which room keys it uploads to it.
import { createInterface } from "node:readline";

const sdk = await import("@matrix-org/matrix-sdk-crypto-wasm");
await sdk.initAsync();
const alice = new sdk.UserId("@alice:localhost"), room = new sdk.RoomId("!room:localhost");
const machine = await sdk.OlmMachine.initialize(alice, new sdk.DeviceId("ELEMENT"));
let device, keys;
async function settle() {
  for (const r of await machine.outgoingRequests()) {
    const body = JSON.parse(r.body);
    if (body.device_keys?.device_id) device = body.device_keys;
    const said = r.type === sdk.RequestType.KeysUpload ? { one_time_key_counts: { signed_curve25519: 50 } } : {
      device_keys: { [alice]: { ELEMENT: device } }, failures: {},
      master_keys: { [alice]: keys?.master_key }, self_signing_keys: { [alice]: keys?.self_signing_key }, user_signing_keys: { [alice]: keys?.user_signing_key } };
    await machine.markRequestAsSent(r.id, r.type, JSON.stringify(said));
  }
}
await settle();
const made = await machine.bootstrapCrossSigning(false);
keys = JSON.parse(made.uploadSigningKeysRequest.body);
for (const [user, by] of Object.entries(JSON.parse(made.uploadSignaturesRequest.body)[alice].ELEMENT.signatures)) Object.assign(device.signatures[user], by);
await machine.updateTrackedUsers([alice]);
await settle();

const commands = {
  async write() {
    await machine.invalidateGroupSession(room);
    await machine.shareRoomKey(room, [], new sdk.EncryptionSettings());
    return JSON.parse(await machine.encryptRoomEvent(room, "m.room.message", `{"msgtype":"m.text","body":"x"}`)).session_id;
  },
  async make() {
    const auth = { public_key: sdk.BackupDecryptionKey.createRandomKey().megolmV1PublicKey.publicKeyBase64 };
    auth.signatures = JSON.parse((await machine.sign(JSON.stringify(auth))).asJSON());
    return { algorithm: "m.megolm_backup.v1.curve25519-aes-sha2", auth_data: auth };
  },
  async use(shown) {
    const backup = JSON.parse(shown), trusted = (await machine.verifyBackup(backup)).trusted();
    await machine.disableBackup(); // as matrix-js-sdk does when another version is shown
    await machine.enableBackupV1(backup.auth_data.public_key, backup.version);
    const request = await machine.backupRoomKeys();
    const rooms = request ? JSON.parse(request.body).rooms : {};
    if (request) await machine.markRequestAsSent(request.id, request.type, `{"etag":"1","count":1}`);
    return { trusted, rooms };
  },
};
for await (const line of createInterface({ input: process.stdin })) {
  const [command, rest] = [line.split(" ", 1)[0], line.slice(line.indexOf(" ") + 1)];
  console.log(JSON.stringify(await commands[command](rest)));
}
NODE
run_python <<'PYTHON'
from homeservers import *

KEYS = V3 + "/room_keys/"


def look(server, comes_back):
    server.register("alice")
    alice = Device(server, "alice", "ELEMENT")
    with subprocess.Popen(["node", os.path.join(WORK, "element.mjs")], cwd=WORK, text=True, bufsize=1,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as element:
        def library(command, *args):
            print(command, *map(json.dumps, args), file=element.stdin, flush=True)
            return json.loads(element.stdout.readline())

        def uploads(shown):
            """What the library does with the backup that the server shows."""
            did = library("use", shown)
            put = alice.ask("PUT", f"{KEYS}keys?version={shown['version']}", {"rooms": did["rooms"]})
            return {"trusted": did["trusted"], "room keys": sum(len(room["sessions"]) for room in did["rooms"].values()), "status": put[0]}

        old, new = library("make"), library("make")
        library("write")
        number = {alice.call("POST", KEYS + "version", old)["version"]: "old"}
        shown = lambda: alice.ask("GET", KEYS + "version")
        which = lambda: number[shown()[1]["version"]] if shown()[0] == 200 else "none"
        expect(f"{server.name}: the first backup", uploads(shown()[1]), {"trusted": True, "room keys": 1, "status": 200})
        number[alice.call("POST", KEYS + "version", new)["version"]] = "new"
        expect(f"{server.name}: after it was replaced", which(), "new")
        later = library("write")
        expect(f"{server.name}: the second backup", uploads(shown()[1]), {"trusted": True, "room keys": 2, "status": 200})

        newest = shown()[1]["version"]
        expect(f"{server.name}: deleted", alice.ask("DELETE", KEYS + "version/" + newest)[0], 200)
        expect(f"{server.name}: the account's backup now", which(), "old" if comes_back else "none")
        first = alice.call("GET", KEYS + "version/" + next(iter(number)))
        expect(f"{server.name}: if a client uses the old one", uploads(first),
               {"trusted": True, "room keys": 2, "status": 200 if comes_back else 500})
        stored = alice.call("GET", f"{KEYS}keys?version={first['version']}")["rooms"]
        expect(f"{server.name}: the room key made after it was replaced is in it", any(later in room["sessions"] for room in stored.values()), comes_back)
        element.stdin.close()


with Synapse() as server:
    look(server, True)
with Dendrite() as server:
    look(server, False)
print("as seen before")
PYTHON

# Output seen:
#
#     synapse: the first backup: {'trusted': True, 'room keys': 1, 'status': 200}
#     synapse: after it was replaced: 'new'
#     synapse: the second backup: {'trusted': True, 'room keys': 2, 'status': 200}
#     synapse: deleted: 200
#     synapse: the account's backup now: 'old'
#     synapse: if a client uses the old one: {'trusted': True, 'room keys': 2, 'status': 200}
#     synapse: the room key made after it was replaced is in it: True
#     dendrite: the first backup: {'trusted': True, 'room keys': 1, 'status': 200}
#     dendrite: after it was replaced: 'new'
#     dendrite: the second backup: {'trusted': True, 'room keys': 2, 'status': 200}
#     dendrite: deleted: 200
#     dendrite: the account's backup now: 'none'
#     dendrite: if a client uses the old one: {'trusted': True, 'room keys': 2, 'status': 500}
#     dendrite: the room key made after it was replaced is in it: False
#   as seen before
