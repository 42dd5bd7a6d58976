// A bot by matrix-bot-sdk, without a crypto provider: it writes what it hears, and does what
// its input says. "say TEXT" says it, "send FILE" sends a picture, "older" reads the room's
// history; pictures that it is sent it puts into files.

import { readFile, writeFile } from "node:fs/promises";
import { basename } from "node:path";
import { createInterface } from "node:readline";
import { AutojoinRoomsMixin, MatrixClient, SimpleFsStorageProvider } from "matrix-bot-sdk";

const { URL: url, TOKEN: token, ROOM: room } = process.env;
const client = new MatrixClient(url, token, new SimpleFsStorageProvider("bot.json"));
if (client.crypto) {
  throw new Error("the bot has crypto");
}
AutojoinRoomsMixin.setupOnClient(client);
const self = await client.getUserId();

client.on("room.message", async (_, event) => {
  if (event.sender === self) {
    return;
  }
  const { msgtype, body, url: file } = event.content;
  if (msgtype === "m.image") {
    const { data } = await client.downloadContent(file);
    await writeFile(body, data);
    console.log("opened", body);
  } else {
    console.log("heard", body);
  }
});

const does = {
  say: (text) => client.sendText(room, text),
  async send(file) {
    const name = basename(file);
    const uploaded = await client.uploadContent(await readFile(file), "image/png", name);
    await client.sendMessage(room, { msgtype: "m.image", body: name, url: uploaded });
  },
  async older() {
    const page = await client.doRequest("GET", `/_matrix/client/v3/rooms/${encodeURIComponent(room)}/messages`, {
      dir: "b",
      limit: 50,
    });
    for (const event of page.chunk) {
      if (event.type === "m.room.message") {
        console.log("older", event.content.body);
      }
    }
  },
};

await client.start();
console.log("ready");
for await (const line of createInterface({ input: process.stdin })) {
  const [what] = line.split(" ", 1);
  await does[what](line.slice(what.length + 1));
}
