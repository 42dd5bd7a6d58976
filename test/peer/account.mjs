// Commands about the session: syncing, logging out, and what went over the wire.

export const accountCommands = {
    startSync: (peer) => peer.startSync(),

    stopSync: (peer) => peer.client.stopClient(),

    async logout(peer) {
        await peer.client.logout(true);
    },

    // saw says whether a text was in anything that any server answered to this client.
    saw: (peer, { text }) => peer.bodies.some((body) => body.includes(text)),

    // requests gives what this client has sent, with its path.
    requests: (peer) => peer.requests,

    // toDevice gives the to-device messages received so far, of one type or all.
    toDevice: (peer, { type }) => peer.toDevice.filter((m) => !type || m.type === type),

    awaitToDevice: (peer, { type, content = {}, timeout }) =>
        peer.until(
            () => peer.toDevice.find((m) => m.type === type && Object.keys(content).every((k) => m.content[k] === content[k])),
            timeout,
            () => `a to-device message ${type}; came: ${JSON.stringify(peer.toDevice.map((m) => m.type))}`,
        ),

    // sendToDevice sends {user: {device: content}} in clear.
    async sendToDevice(peer, { type, messages }) {
        const map = new Map(Object.entries(messages).map(([user, devices]) => [user, new Map(Object.entries(devices))]));
        await peer.client.sendToDevice(type, map);
    },

    accountData: (peer, { type }) => peer.client.getAccountDataFromServer(type),
};
