#!/usr/bin/env bash
# The Rust crypto of Element: a device for which one claim gave no key is not asked about again
# for a time that doubles from 15 seconds to 15 minutes, and new keys do not shorten it.
#
# Why it matters to an encryption proxy: a proxied device that was out of one-time keys for a
# moment (a busy room, a server without fallback keys, a proxy that slept) puts its supply
# right and believes that all is well. Its peers do not come back: neither the new keys nor a
# change of its device list makes them claim, they go on writing, and what they write until
# their time is up can never be read by the device. They say m.no_olm once, and then nothing.
# What helps at once is that the device begins a session itself, with any Olm message: from
# then on it gets the room key, at the index that the sender has reached by then. So a proxy
# has to act on m.no_olm the moment it comes, whatever else it does with withheld notices.
#
# Seen with @matrix-org/matrix-sdk-crypto-wasm 18.9.0, which matrix-js-sdk 43.0.0 comes with.
# Both ends are its OlmMachine, the server between them is below, and the clock that
# the library reads is moved on instead of waiting.
. "$(dirname "$0")/lib.sh"
cd "$work"
npm install --silent --no-audit --no-fund --no-progress --prefix "$work" @matrix-org/matrix-sdk-crypto-wasm@18.9.0
cat >peers.mjs <<'NODE'
import assert from "node:assert/strict";

let ahead = 0;
const [now, tick] = [Date.now, performance.now.bind(performance)];
Date.now = () => now() + ahead;
performance.now = () => tick() + ahead;
const sdk = await import("@matrix-org/matrix-sdk-crypto-wasm");
await sdk.initAsync();

const expect = (what, got, want) => {
  console.log(`  ${what}: ${JSON.stringify(got)}`);
  assert.deepEqual(got, want, `CHANGED: ${what}`);
};
const settings = () => new sdk.DecryptionSettings(sdk.TrustRequirement.Untrusted);
const alice = "@alice:localhost", bob = "@bob:localhost", room = "!room:localhost";
const id = (user) => new sdk.UserId(user);

// The server: device keys and one-time keys, each key given out once.
const devices = {}, supply = { [alice]: {}, [bob]: {} };
function answer(user, request) {
  const body = JSON.parse(request.body);
  if (request.type === sdk.RequestType.KeysUpload) {
    if (body.device_keys) devices[user] = { [body.device_keys.device_id]: body.device_keys };
    Object.assign(supply[user], body.one_time_keys);
    return { one_time_key_counts: { signed_curve25519: Object.keys(supply[user]).length } };
  }
  if (request.type === sdk.RequestType.KeysQuery)
    return { device_keys: Object.fromEntries(Object.keys(body.device_keys).map((u) => [u, devices[u] ?? {}])), failures: {} };
  if (request.type === sdk.RequestType.KeysClaim) {
    const given = {};
    for (const [u, asked] of Object.entries(body.one_time_keys))
      for (const device of Object.keys(asked)) {
        const [name] = Object.keys(supply[u]);
        if (name) (given[u] ??= {})[device] = { [name]: supply[u][name] };
        delete supply[u][name];
      }
    return { one_time_keys: given, failures: {} };
  }
  return {};
}
const sent = (machine, user, r) => machine.markRequestAsSent(r.id, r.type, JSON.stringify(answer(user, r)));
async function settle(machine, user) {
  for (const r of await machine.outgoingRequests()) await sent(machine, user, r);
}
const sync = (machine, user, events, changed = []) =>
  machine.receiveSyncChanges(JSON.stringify(events), new sdk.DeviceLists(changed.map(id), []),
    new Map([["signed_curve25519", Object.keys(supply[user]).length]]), new Set(), settings());

const a = await sdk.OlmMachine.initialize(id(alice), new sdk.DeviceId("ALICE"));
const b = await sdk.OlmMachine.initialize(id(bob), new sdk.DeviceId("BOB"));
await settle(a, alice);
await settle(b, bob);
await a.updateTrackedUsers([id(bob)]);
await b.updateTrackedUsers([id(alice)]);
await settle(a, alice);
await settle(b, bob);

// What Alice's machine does before each of her messages.
async function claim() {
  const r = await a.getMissingSessions([id(bob)]);
  if (r) await sent(a, alice, r);
  return Boolean(r);
}
async function share() {
  const out = [];
  for (const r of await a.shareRoomKey(new sdk.RoomId(room), [id(bob)], new sdk.EncryptionSettings())) {
    out.push({ type: r.event_type, content: Object.values(JSON.parse(r.body).messages[bob])[0] });
    await sent(a, alice, r);
  }
  return out;
}
const messages = [];
async function write() {
  const asked = await claim(), shared = await share();
  messages.push(JSON.parse(await a.encryptRoomEvent(new sdk.RoomId(room), "m.room.message", `{"msgtype":"m.text","body":"x"}`)));
  return { asked, shared: shared.map((e) => e.content.code ?? e.type), events: shared };
}
const brief = ({ asked, shared }) => ({ asked, shared });

const taken = supply[bob];
supply[bob] = {};
expect("no key is left: first message", brief(await write()), { asked: true, shared: ["m.no_olm"] });

supply[bob] = taken;
expect("keys are there again: message at once", brief(await write()), { asked: false, shared: [] });
await sync(a, alice, [], [bob]);
await settle(a, alice);
expect("message after the device list was read again", brief(await write()), { asked: false, shared: [] });

supply[bob] = {};
const waits = [], told = [];
for (let second = 1, last = 0; waits.length < 8; second++) {
  ahead += 1000;
  if (await claim()) {
    waits.push(second - last);
    told.push(...(await share()));
    last = second;
  }
  assert.ok(second < 10000, "CHANGED: it does not ask again at all");
}
expect("seconds between claims while there is none", waits, [15, 30, 60, 120, 240, 480, 900, 900]);

supply[bob] = taken;
ahead += 890 * 1000;
expect("what bob's device is told meanwhile", told, []);
expect("keys are there again: message after 890 s", brief(await write()), { asked: false, shared: [] });

// Bob's device begins the session.
await sent(b, bob, await b.getMissingSessions([id(alice)]));
const device = await b.getDevice(id(alice), new sdk.DeviceId("ALICE"));
const hello = JSON.parse(await device.encryptToDeviceEvent("m.dummy", {}));
await sync(a, alice, [{ type: "m.room.encrypted", sender: bob, content: hello }]);
const after = await write();
expect("message after bob's device began a session", brief(after), { asked: false, shared: ["m.room.encrypted"] });
await sync(b, bob, after.events.map((e) => ({ ...e, sender: alice })));
const readable = [];
for (const [i, content] of messages.entries()) {
  const event = { type: "m.room.encrypted", sender: alice, event_id: `$event${i}`, origin_server_ts: 1, content };
  readable.push(await b.decryptRoomEvent(JSON.stringify(event), new sdk.RoomId(room), settings()).then(() => true, () => false));
}
expect("which of her messages bob can read", readable, [false, false, false, false, true]);
console.log("as seen before");
NODE
node peers.mjs

# Output seen:
#
#     no key is left: first message: {"asked":true,"shared":["m.no_olm"]}
#     keys are there again: message at once: {"asked":false,"shared":[]}
#     message after the device list was read again: {"asked":false,"shared":[]}
#     seconds between claims while there is none: [15,30,60,120,240,480,900,900]
#     what bob's device is told meanwhile: []
#     keys are there again: message after 890 s: {"asked":false,"shared":[]}
#     message after bob's device began a session: {"asked":false,"shared":["m.room.encrypted"]}
#     which of her messages bob can read: [false,false,false,false,true]
#   as seen before
