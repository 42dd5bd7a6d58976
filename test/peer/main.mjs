// Matrix clients for the tests, driven by JSON lines; internal/testpeer is the other
// end. One program holds any number of clients, told apart by the field "client".

import { serve } from "./stdio.mjs";
import { accountCommands } from "./account.mjs";
import { cryptoCommands } from "./crypto.mjs";
import { fileCommands } from "./files.mjs";
import { Peer } from "./peer.mjs";
import { roomCommands } from "./rooms.mjs";
import { timelineCommands } from "./timeline.mjs";
import { verificationCommands } from "./verification.mjs";

const commands = { ...accountCommands, ...cryptoCommands, ...fileCommands, ...roomCommands, ...timelineCommands, ...verificationCommands };
const peers = new Map();

serve(async ({ client, cmd, ...args }) => {
    if (cmd === "open") {
        if (peers.has(client)) throw new Error(`client ${client} is open already`);
        peers.set(client, await Peer.open(args));
        return peers.get(client).whoami();
    }
    const peer = peers.get(client);
    if (!peer) throw new Error(`no client ${client}`);
    const run = commands[cmd];
    if (!run) throw new Error(`no command ${cmd}`);
    return run(peer, args);
});
