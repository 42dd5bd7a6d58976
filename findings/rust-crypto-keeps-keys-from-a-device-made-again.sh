#!/usr/bin/env bash
# Element's library (rust-crypto): a device that was logged out and is made again under its ID, with
# new keys, is given no room key until the session ends, for up to a week, unless a message was
# written while it was gone. It is told nothing, and nothing that it can send helps. When
# nobody looked while it was gone, its new keys are refused for good.
#
# Why it matters to an encryption proxy: bots and scripts choose their device ID and log in with
# it again and again, and when a proxy's database is lost, the same ID with new keys looks like the
# natural repair: the device is confirmed by its owner, everybody asks for its keys, opens an Olm
# session with it, and then leaves it out, because a device of this name had the room key
# already. Everything looks right on both sides, and no message can be read. The way out is
# another device ID, and to say so to whoever has lost keys. (A sender must compare the device's
# keys, not its ID, when it asks itself who has the key.)
#
# Seen with @matrix-org/matrix-sdk-crypto-wasm 18.9.0, which matrix-js-sdk 43 uses.
. "$(dirname "$0")/lib.sh"
cd "$work"
npm install --silent --no-audit --no-fund --no-progress --prefix "$work" @matrix-org/matrix-sdk-crypto-wasm@18.9.0
cat >again.mjs <<'NODE'
import assert from "node:assert/strict";

const sdk = await import("@matrix-org/matrix-sdk-crypto-wasm");
await sdk.initAsync();
const expect = (what, got, want) => {
  console.log(`  ${what}: ${JSON.stringify(got)}`);
  assert.deepEqual(got, want, `CHANGED: ${what}`);
};
const settings = () => new sdk.DecryptionSettings(sdk.TrustRequirement.Untrusted);
const alice = "@alice:localhost", bob = "@bob:localhost", room = "!room:localhost";
const id = (user) => new sdk.UserId(user), device = (name) => new sdk.DeviceId(name);

// The server: what is published, one-time keys each given out once, and an inbox per user.
let server;
function answer(user, request) {
  const body = JSON.parse(request.body), kind = sdk.RequestType;
  switch (request.type) {
    case kind.KeysUpload:
      if (body.device_keys) server.devices[user] = { [body.device_keys.device_id]: body.device_keys };
      server.supply[user] = { ...server.supply[user], ...body.one_time_keys };
      return { one_time_key_counts: { signed_curve25519: Object.keys(server.supply[user]).length } };
    case kind.KeysQuery: {
      const users = Object.keys(body.device_keys), of = (all) => Object.fromEntries(users.filter((u) => all[u]).map((u) => [u, all[u]]));
      return { device_keys: Object.fromEntries(users.map((u) => [u, server.devices[u] ?? {}])), master_keys: of(server.master), self_signing_keys: of(server.self), failures: {},
               user_signing_keys: Object.fromEntries(users.filter((u) => u === user && server.user[u]).map((u) => [u, server.user[u]])) };
    }
    case kind.KeysClaim: {
      const given = {};
      for (const [u, asked] of Object.entries(body.one_time_keys))
        for (const name of Object.keys(asked)) {
          const [key] = Object.keys(server.supply[u]);
          (given[u] ??= {})[name] = { [key]: server.supply[u][key] };
          delete server.supply[u][key];
        }
      return { one_time_keys: given, failures: {} };
    }
    case kind.SignatureUpload:
      for (const [u, signed] of Object.entries(body))
        for (const [name, object] of Object.entries(signed)) {
          const stored = server.devices[u]?.[name] ?? server.master[u];
          for (const [by, signatures] of Object.entries(object.signatures)) Object.assign((stored.signatures[by] ??= {}), signatures);
        }
      return { failures: {} };
    case kind.ToDevice:
      for (const [u, messages] of Object.entries(body.messages))
        for (const content of Object.values(messages)) server.inbox[u].push({ type: request.event_type, sender: user, content });
  }
  return {};
}

class Client {
  static async make(user, name) {
    const c = Object.assign(new Client(), { user, name, machine: await sdk.OlmMachine.initialize(id(user), device(name)) });
    await c.settle();
    await c.machine.updateTrackedUsers([id(alice), id(bob)]);
    return c.settle();
  }
  async sent(r) {
    const said = answer(this.user, r);
    if (r.id !== undefined) await this.machine.markRequestAsSent(r.id, r.type, JSON.stringify(said));
  }
  async settle() {
    for (let some; (some = await this.machine.outgoingRequests()).length; ) for (const r of some) await this.sent(r);
    return this;
  }
  async identity() {
    const made = await this.machine.bootstrapCrossSigning(false), keys = JSON.parse(made.uploadSigningKeysRequest.body);
    [server.master[this.user], server.self[this.user], server.user[this.user]] = [keys.master_key, keys.self_signing_key, keys.user_signing_key];
    await this.sent(made.uploadSignaturesRequest);
    return this.machine.exportCrossSigningKeys();
  }
  /** Signs the own device with the identity's keys, as recovery does. */
  async confirm(keys) {
    await this.machine.importCrossSigningKeys(keys.masterKey, keys.self_signing_key, keys.userSigningKey);
    await this.sent(await (await this.machine.getDevice(id(this.user), device(this.name))).verify());
  }
  /** Takes a sync, with those whose devices it says changed. */
  async sync(...changed) {
    const events = server.inbox[this.user].splice(0);
    await this.machine.receiveSyncChanges(JSON.stringify(events), new sdk.DeviceLists(changed.map(id), []),
      new Map([["signed_curve25519", 50]]), new Set(), settings());
    await this.settle();
  }
  /** What Element does before each message and with it: whether it claims a key, and the message. */
  async write() {
    const claim = await this.machine.getMissingSessions([id(bob)]);
    if (claim) await this.sent(claim);
    for (const r of await this.machine.shareRoomKey(new sdk.RoomId(room), [id(bob)], new sdk.EncryptionSettings())) await this.sent(r);
    const content = JSON.parse(await this.machine.encryptRoomEvent(new sdk.RoomId(room), "m.room.message", `{"msgtype":"m.text","body":"x"}`));
    return { claimed: Boolean(claim), content };
  }
  async reads(content) {
    const event = { type: "m.room.encrypted", sender: alice, event_id: "$" + content.session_id, origin_server_ts: 1, content };
    return this.machine.decryptRoomEvent(JSON.stringify(event), new sdk.RoomId(room), settings()).then(() => true, () => false);
  }
}

/** Alice writes, bob gets what came, and: was a key claimed of him, what came, and can he read it? */
async function message(a, b) {
  const { claimed, content } = await a.write();
  const came = server.inbox[bob].map((e) => e.type);
  await b.sync();
  return { claimed, came, read: await b.reads(content) };
}
const know = async (a) => {
  const found = await a.machine.getDevice(id(bob), device("BOT"));
  return found ? { new: found.curve25519Key.toBase64() === server.devices[bob].BOT.keys["curve25519:BOT"], signed: found.isCrossSignedByOwner() } : "gone";
};

async function look(what, { looks, writes }) {
  server = { devices: {}, master: {}, self: {}, user: {}, supply: {}, inbox: { [alice]: [], [bob]: [] } };
  const a = await Client.make(alice, "ALICE"), old = await Client.make(bob, "BOT");
  await a.identity();
  const keys = await old.identity();
  await a.sync(alice, bob);
  expect(`${what}: before`, await message(a, old), { claimed: true, came: ["m.room.encrypted"], read: true });

  // Logged out: the server forgets the device, and tells alice.
  server.devices[bob] = {}, server.supply[bob] = {};
  if (looks) await a.sync(bob);
  if (writes) await a.write();
  const bot = await Client.make(bob, "BOT");
  await bot.confirm(keys);
  await a.sync(bob);
  return { a, bot };
}

let { a, bot } = await look("nobody wrote", { looks: true });
expect("nobody wrote: what alice knows of the new device", await know(a), { new: true, signed: true });
expect("nobody wrote: first message", await message(a, bot), { claimed: true, came: [], read: false });
await bot.sent(await bot.machine.getMissingSessions([id(alice)]));
const hello = JSON.parse(await (await bot.machine.getDevice(id(alice), device("ALICE"))).encryptToDeviceEvent("m.dummy", {}));
server.inbox[alice].push({ type: "m.room.encrypted", sender: bob, content: hello });
await a.sync(bob);
expect("nobody wrote: after the device began a session itself", await message(a, bot), { claimed: false, came: [], read: false });
let unread = 2;
for (let got; !(got = await message(a, bot)).read; unread++) assert.ok(unread < 1000, "CHANGED: it never reads again");
expect("nobody wrote: messages that it cannot read", unread, 99);

({ a, bot } = await look("somebody wrote", { looks: true, writes: true }));
expect("somebody wrote: first message", await message(a, bot), { claimed: true, came: ["m.room.encrypted"], read: true });

({ a, bot } = await look("nobody looked", {}));
expect("nobody looked: what alice knows of the new device", await know(a), { new: false, signed: true });
expect("nobody looked: first message", await message(a, bot), { claimed: false, came: [], read: false });
for (let i = 0; i < 250; i++) await message(a, bot);
expect("nobody looked: 250 messages later", await message(a, bot), { claimed: false, came: [], read: false });
console.log("as seen before");
NODE
node again.mjs

# Output seen:
#
#     nobody wrote: before: {"claimed":true,"came":["m.room.encrypted"],"read":true}
#     nobody wrote: what alice knows of the new device: {"new":true,"signed":true}
#     nobody wrote: first message: {"claimed":true,"came":[],"read":false}
#     nobody wrote: after the device began a session itself: {"claimed":false,"came":[],"read":false}
#     nobody wrote: messages that it cannot read: 99
#     somebody wrote: before: {"claimed":true,"came":["m.room.encrypted"],"read":true}
#     somebody wrote: first message: {"claimed":true,"came":["m.room.encrypted"],"read":true}
#     nobody looked: before: {"claimed":true,"came":["m.room.encrypted"],"read":true}
#     nobody looked: what alice knows of the new device: {"new":false,"signed":true}
#     nobody looked: first message: {"claimed":false,"came":[],"read":false}
#     nobody looked: 250 messages later: {"claimed":false,"came":[],"read":false}
#   as seen before
