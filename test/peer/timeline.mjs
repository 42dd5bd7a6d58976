// Commands that tell what a person at this client would see.

import { EventShieldColour, EventShieldReason } from "matrix-js-sdk/lib/crypto-api/index.js";

const nameOf = (names, value) => Object.keys(names).find((k) => names[k] === value) ?? "";

async function shield(peer, event) {
    if (!peer.client.getCrypto() || !event.isEncrypted()) return null;
    const info = await peer.client.getCrypto().getEncryptionInfoForEvent(event);
    return (
        info && {
            colour: nameOf(EventShieldColour, info.shieldColour),
            reason: info.shieldReason === null ? "" : nameOf(EventShieldReason, info.shieldReason),
        }
    );
}

async function describe(peer, event) {
    // What is described must all be of one moment: it may be decrypted while the shield is asked for.
    const moment = () => `${event.isDecryptionFailure()} ${event.getClearContent() !== null}`;
    let shown, before;
    do {
        before = moment();
        shown = await shield(peer, event);
    } while (moment() !== before);
    const failed = event.isDecryptionFailure();
    return {
        event_id: event.getId(),
        sender: event.getSender(),
        type: event.getType(),
        // What the SDK shows of a failure is its own text, not the sender's.
        content: failed ? {} : event.getContent(),
        body: failed ? "" : String(event.getContent().body ?? ""),
        state_key: event.getStateKey() ?? null,
        encrypted: event.isEncrypted(),
        decrypted: event.isEncrypted() && !failed && event.getClearContent() !== null,
        failure: event.decryptionFailureReason ?? "",
        shield: shown,
        redacted: event.isRedacted(),
        edited: event.replacingEventId() ?? "",
        relates_to: event.getWireContent()["m.relates_to"] ?? null,
        transaction_id: event.getUnsigned().transaction_id ?? "",
        unsigned: event.getUnsigned(),
        wire_type: event.getWireType(),
        wire_content: event.getWireContent(),
    };
}

// events leaves out what this client has sent but the server has not given back yet.
function events(peer, room) {
    const all = peer.client.getRoom(room)?.getLiveTimeline().getEvents() ?? [];
    return all.filter((event) => event.status === null);
}

// matches says whether a described event is the one a test waits for.
function matches(m, where) {
    return Object.entries(where).every(([key, want]) => {
        switch (key) {
            case "rel_type":
                return m.relates_to?.rel_type === want;
            case "relates_to":
                return (m.relates_to?.event_id ?? m.relates_to?.["m.in_reply_to"]?.event_id) === want;
            case "key":
                return m.relates_to?.key === want;
            default:
                return m[key] === want;
        }
    });
}

// decryptAgain does what reopening the client does. The SDK judges an event once: when
// it learns of the sender's identity a moment later, it does not look again by itself.
async function decryptAgain(peer, event) {
    if (["UNSIGNED_SENDER_DEVICE", "UNKNOWN_SENDER_DEVICE"].includes(event.decryptionFailureReason)) {
        await event.attemptDecryption(peer.crypto, { isRetry: true });
    }
}

async function find(peer, room, where) {
    // Newest first: after an edit, several events may have the same text.
    for (const event of [...events(peer, room)].reverse()) {
        if (where.decrypted && where.event_id === event.getId()) await decryptAgain(peer, event);
        const described = await describe(peer, event);
        if (matches(described, where)) return described;
    }
    return undefined;
}

const summary = (m) =>
    `${m.event_id} ${m.sender} ${m.type}${m.body && ` ${JSON.stringify(m.body)}`}${m.failure && ` ${m.failure}`}`;

export const timelineCommands = {
    timeline: (peer, { room }) => Promise.all(events(peer, room).map((e) => describe(peer, e))),

    // awaitMessage waits for an event that has every property named in "where": those of
    // a described event, or "rel_type", "relates_to" and "key" of its relation.
    awaitMessage: (peer, { room, where, timeout }) =>
        peer.until(
            () => find(peer, room, where),
            timeout,
            async () => {
                const all = await timelineCommands.timeline(peer, { room });
                return `${JSON.stringify(where)}; the timeline has:\n${all.map(summary).join("\n")}`;
            },
        ),

    // scrollback reads older history, as a person would by scrolling up.
    async scrollback(peer, { room, limit = 100 }) {
        await peer.client.scrollback(peer.client.getRoom(room), limit);
        return timelineCommands.timeline(peer, { room });
    },
};
