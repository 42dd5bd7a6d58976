// Holds a conversation between two users with the client that the page at the first address has.
const [page, proxy, password] = process.argv.slice(2);
const source = await (await fetch(`${page}/client.js`)).text();
const { Client } = await import(`data:text/javascript,${encodeURIComponent(source)}`);

// Syncs until something holds.
async function until(client, what, holds) {
  const end = Date.now() + 60_000;
  for (;;) {
    const found = holds();
    if (found) return found;
    if (Date.now() > end) throw new Error(`${client.userId}: ${what} did not come`);
    await client.sync(1000);
  }
}

const alice = new Client(proxy), bob = new Client(proxy);
await alice.login("alice", password);
await bob.login("bob", password);
const room = await alice.invite(bob.userId);
await until(bob, "the invitation", () => bob.rooms.get(room)?.membership === "invite");
await bob.join(room);
await until(bob, "the room", () => bob.rooms.get(room)?.membership === "join");
const sent = await alice.send(room, "hello bob");
const got = await until(bob, "hello", () => bob.rooms.get(room).messages.find((m) => m.body === "hello bob"));
await bob.send(room, "hello alice");
await until(alice, "the answer", () => alice.rooms.get(room)?.messages.find((m) => m.body === "hello alice"));
if (got.id !== sent.event_id || got.sender !== alice.userId) throw new Error(`bob sees ${JSON.stringify(got)}`);
console.log(JSON.stringify({ room, event: sent.event_id }));
