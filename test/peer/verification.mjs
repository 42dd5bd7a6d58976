// Commands about verification: the client is Element's SDK, the person is the test.

import { VerifierEvent, VerificationPhase, CryptoEvent } from "matrix-js-sdk/lib/crypto-api/index.js";

// requests returns what this client knows of its verifications, the newest last. It begins to
// listen with the first command about verification.
function requests(peer) {
    if (!peer.verifications) {
        peer.verifications = [];
        peer.client.on(CryptoEvent.VerificationRequestReceived, (request) => watch(peer, request));
    }
    return peer.verifications;
}

function watch(peer, request) {
    const one = { request, sas: null, qr: null, confirmScanned: null };
    requests(peer).push(one);
    const look = () => {
        const verifier = request.verifier;
        if (verifier && !one.verifier) {
            one.verifier = verifier;
            verifier.on(VerifierEvent.ShowSas, (sas) => {
                one.sas = sas;
                peer.wake();
            });
            verifier.on(VerifierEvent.ShowReciprocateQr, (qr) => {
                one.qr = qr;
                peer.wake();
            });
            one.sas = verifier.getShowSasCallbacks();
            one.qr = verifier.getReciprocateQrCodeCallbacks();
            verifier.verify().catch((e) => console.error("a verification failed:", e));
        }
        peer.wake();
    };
    request.on("change", look);
    look();
    return one;
}

function last(peer) {
    const one = requests(peer).at(-1);
    if (!one) throw new Error("there is no verification");
    return one;
}

const phases = Object.fromEntries(Object.entries(VerificationPhase).filter(([, v]) => typeof v === "number").map(([k, v]) => [v, k]));

function view(peer) {
    const one = requests(peer).at(-1);
    if (!one) return { phase: "none" };
    const sas = one.sas ?? one.request.verifier?.getShowSasCallbacks();
    const qr = one.qr ?? one.request.verifier?.getReciprocateQrCodeCallbacks();
    return {
        phase: (phases[one.request.phase] ?? String(one.request.phase)).toLowerCase(),
        emoji: sas?.sas?.emoji?.map(([symbol, name]) => ({ symbol, name })) ?? null,
        decimals: sas?.sas?.decimal ?? null,
        scanned: Boolean(qr),
        code: one.request.cancellationCode ?? "",
        other: one.request.otherUserId,
        device: one.request.otherDeviceId ?? "",
    };
}

export const verificationCommands = {
    listenVerifications: (peer) => void requests(peer),

    // requestVerification asks a user in a room, an own device, or all own devices.
    async requestVerification(peer, { user, room, device }) {
        requests(peer);
        let request;
        if (room) request = await peer.crypto.requestVerificationDM(user, room);
        else if (user === peer.client.getUserId() && !device) request = await peer.crypto.requestOwnUserVerification();
        else request = await peer.crypto.requestDeviceVerification(user, device);
        watch(peer, request);
    },

    acceptVerification: (peer) => last(peer).request.accept(),
    startEmoji: async (peer) => void (await last(peer).request.startVerification("m.sas.v1")),
    confirmEmoji: (peer) => (last(peer).sas ?? last(peer).request.verifier.getShowSasCallbacks()).confirm(),
    mismatchEmoji: (peer) => (last(peer).sas ?? last(peer).request.verifier.getShowSasCallbacks()).mismatch(),
    cancelVerification: (peer) => last(peer).request.cancel(),

    // showQR returns the content of the code that this client shows, scanQR scans one.
    showQR: async (peer) => Buffer.from((await last(peer).request.generateQRCode()) ?? []).toString("base64"),
    scanQR: async (peer, { code }) => void (await last(peer).request.scanQRCode(new Uint8ClampedArray(Buffer.from(code, "base64")))),
    confirmScanned: (peer) => (last(peer).qr ?? last(peer).request.verifier.getReciprocateQrCodeCallbacks()).confirm(),

    verification: (peer) => view(peer),
    awaitVerification: (peer, { want, timeout }) =>
        peer.until(
            async () => {
                const is = view(peer);
                return Object.keys(want).every((k) => (k === "emoji" ? Boolean(is.emoji) === want.emoji : is[k] === want[k])) ? is : undefined;
            },
            timeout,
            async () => `${JSON.stringify(want)}; is: ${JSON.stringify(view(peer))}`,
        ),
};
