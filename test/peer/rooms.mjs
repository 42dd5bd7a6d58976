// Commands that change rooms: creating, membership, sending.

const encryptionState = {
    type: "m.room.encryption",
    state_key: "",
    content: { algorithm: "m.megolm.v1.aes-sha2" },
};

const text = (body) => ({ msgtype: "m.text", body });

// awaitRoom waits until this client knows the room with its own membership in it.
async function awaitRoom(peer, { room, membership = "join", encrypted, timeout }) {
    await peer.until(
        async () => {
            const known = peer.client.getRoom(room);
            if (known?.getMyMembership() !== membership) return undefined;
            if (encrypted && !(await peer.crypto.isEncryptionEnabledInRoom(room))) return undefined;
            return true;
        },
        timeout,
        () => `${room} with membership ${membership}; is: ${peer.client.getRoom(room)?.getMyMembership()}`,
    );
}

async function send(peer, room, type, content, txn) {
    const { event_id } = await peer.client.sendEvent(room, type, content, txn ?? peer.client.makeTxnId());
    return { event_id };
}

export const roomCommands = {
    // sendPicture sends a picture, in clear as far as this client knows.
    async sendPicture(peer, { room, name, data }) {
        const bytes = Buffer.from(data, "base64");
        const { content_uri } = await peer.client.uploadContent(bytes, { name, type: "image/png" });
        const content = { msgtype: "m.image", body: name, url: content_uri, info: { mimetype: "image/png", size: bytes.length } };
        return send(peer, room, "m.room.message", content);
    },

    // download returns the bytes behind a URI, in base64.
    async download(peer, { url }) {
        const response = await fetch(peer.client.mxcUrlToHttp(url, undefined, undefined, undefined, false, true, true), {
            headers: { Authorization: `Bearer ${peer.client.getAccessToken()}` },
        });
        if (!response.ok) throw new Error(`${url}: ${response.status} ${await response.text()}`);
        return Buffer.from(await response.arrayBuffer()).toString("base64");
    },

    async createRoom(peer, { encrypted, invite = [], name, history_visibility, room_version, timeout }) {
        const state = encrypted ? [encryptionState] : [];
        if (history_visibility) {
            state.push({ type: "m.room.history_visibility", state_key: "", content: { history_visibility } });
        }
        const options = { preset: "private_chat", name, invite, room_version, initial_state: state };
        const { room_id } = await peer.client.createRoom(options);
        await awaitRoom(peer, { room: room_id, encrypted: encrypted && peer.client.getCrypto(), timeout });
        return { room_id };
    },

    awaitRoom,

    // awaitMember waits until this client knows somebody's membership.
    awaitMember: (peer, { room, user, membership, timeout }) =>
        peer.until(
            () => (peer.client.getRoom(room)?.getMember(user)?.membership === membership ? true : undefined),
            timeout,
            () => `${user} as ${membership}; is: ${peer.client.getRoom(room)?.getMember(user)?.membership}`,
        ),

    async join(peer, { room, timeout, encrypted }) {
        await peer.client.joinRoom(room);
        await awaitRoom(peer, { room, encrypted, timeout });
    },

    invite: (peer, { room, user }) => peer.client.invite(room, user),
    kick: (peer, { room, user }) => peer.client.kick(room, user),
    leave: (peer, { room }) => peer.client.leave(room),
    setState: (peer, { room, type, state_key = "", content }) => peer.client.sendStateEvent(room, type, content, state_key),

    send: (peer, { room, type, content, txn }) => send(peer, room, type, content, txn),
    sendText: (peer, { room, body, txn }) => send(peer, room, "m.room.message", text(body), txn),

    reply: (peer, { room, event, body }) =>
        send(peer, room, "m.room.message", {
            ...text(body),
            "m.relates_to": { "m.in_reply_to": { event_id: event } },
        }),

    edit: (peer, { room, event, body }) =>
        send(peer, room, "m.room.message", {
            ...text(`* ${body}`),
            "m.new_content": text(body),
            "m.relates_to": { rel_type: "m.replace", event_id: event },
        }),

    react: (peer, { room, event, key }) =>
        send(peer, room, "m.reaction", { "m.relates_to": { rel_type: "m.annotation", event_id: event, key } }),

    redact: (peer, { room, event }) => peer.client.redactEvent(room, event),

    // unread tells the numbers of unread messages that this client shows.
    unread(peer, { room }) {
        const known = peer.client.getRoom(room);
        return {
            notification_count: known.getUnreadNotificationCount("total") ?? 0,
            highlight_count: known.getUnreadNotificationCount("highlight") ?? 0,
        };
    },

    typing: (peer, { room }) => peer.client.sendTyping(room, true, 1000),

    // members tells who is in a room, by the state that this client has.
    members: (peer, { room }) =>
        peer.client
            .getRoom(room)
            .getJoinedMembers()
            .map((member) => member.userId)
            .sort(),

    markRead: (peer, { room, event }) => peer.client.sendReadReceipt(peer.client.getRoom(room).findEventById(event)),
};
