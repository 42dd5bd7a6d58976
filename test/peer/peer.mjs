// One client of matrix-js-sdk, with its Rust crypto or, as a plain client, without.

import * as sdk from "matrix-js-sdk";
import { OnlySignedDevicesIsolationMode, AllDevicesIsolationMode, decodeRecoveryKey } from "matrix-js-sdk/lib/crypto-api/index.js";

export class Peer {
    // open logs in with {user, password, device?} or takes {user_id, token, device}. With
    // crypto, insecure devices are excluded unless "exclude_insecure" is false.
    static async open({ url, user, password, device, user_id, token, crypto, exclude_insecure = true, sync = true }) {
        const peer = new Peer();
        peer.password = password;
        const login = token
            ? { user_id, access_token: token, device_id: device }
            : await sdk.createClient({ baseUrl: url }).loginRequest({
                  type: "m.login.password",
                  identifier: { type: "m.id.user", user },
                  password,
                  ...(device && { device_id: device }),
              });
        peer.client = sdk.createClient({
            baseUrl: url,
            userId: login.user_id,
            accessToken: login.access_token,
            deviceId: login.device_id,
            fetchFn: peer.fetch.bind(peer),
            disableVoip: true,
            cryptoCallbacks: {
                getSecretStorageKey: peer.secretStorageKey.bind(peer),
                cacheSecretStorageKey: (id, _info, key) => peer.storageKeys.set(id, key),
            },
        });
        if (crypto) {
            await peer.client.initRustCrypto({ useIndexedDB: false });
            peer.setIsolation(exclude_insecure);
        }
        if (sync) await peer.startSync();
        return peer;
    }

    constructor() {
        this.storageKeys = new Map(); // secret storage key ID → private key
        this.recoveryKey = null; // private key that opens any secret storage when set
        this.toDevice = []; // to-device messages as they came over the wire
        this.bodies = []; // every response body, for the command "saw"
        this.requests = []; // {method, path, body} of every request
        this.watchers = new Set();
    }

    whoami() {
        return {
            user_id: this.client.getUserId(),
            device_id: this.client.getDeviceId(),
            access_token: this.client.getAccessToken(),
        };
    }

    get crypto() {
        const api = this.client.getCrypto();
        if (!api) throw new Error("this client has no crypto");
        return api;
    }

    setIsolation(excludeInsecure) {
        this.crypto.setDeviceIsolationMode(
            excludeInsecure ? new OnlySignedDevicesIsolationMode() : new AllDevicesIsolationMode(false),
        );
    }

    useRecoveryKey(encoded) {
        this.recoveryKey = decodeRecoveryKey(encoded);
    }

    secretStorageKey({ keys }) {
        for (const id of Object.keys(keys)) {
            const key = this.storageKeys.get(id) ?? this.recoveryKey;
            if (key) return [id, key];
        }
        return null;
    }

    // fetch records what goes over the wire, so that tests see what the SDK hides.
    async fetch(resource, options) {
        const url = new URL(resource);
        this.requests.push({ method: options?.method ?? "GET", path: url.pathname, body: String(options?.body ?? "") });
        const response = await fetch(resource, options);
        const type = response.headers.get("content-type") ?? "";
        if (!type.includes("application/json")) return response;
        const text = await response.clone().text();
        this.bodies.push(text);
        if (url.pathname.endsWith("/sync") && response.ok) {
            for (const message of JSON.parse(text).to_device?.events ?? []) this.toDevice.push(message);
        }
        return response;
    }

    async startSync() {
        const ready = new Promise((resolve) => {
            this.client.on("sync", (state) => {
                if (state === "PREPARED" || state === "SYNCING") resolve();
                this.wake();
            });
        });
        for (const event of [
            "Room", "Room.timeline", "Room.redaction", "Room.localEchoUpdated", "Room.myMembership",
            "Event.decrypted", "Event.replaced", "RoomMember.membership", "RoomState.events",
            "toDeviceEvent", "userTrustStatusChanged", "crypto.keysChanged", "crypto.devicesUpdated",
        ]) {
            this.client.on(event, () => this.wake());
        }
        await this.client.startClient({ initialSyncLimit: 100, threadSupport: false, pollTimeout: 10000 });
        await ready;
    }

    wake() {
        for (const look of [...this.watchers]) look();
    }

    // until waits for look to give something other than undefined. It looks again
    // whenever the SDK tells of something, and every 100 ms for what it does not tell
    // of. After the deadline, in milliseconds, it fails and says what missing tells.
    until(look, deadline, missing) {
        return new Promise((resolve, reject) => {
            let looking = false;
            let again = false;
            let ended = false;
            const end = (settle, value) => {
                ended = true;
                this.watchers.delete(check);
                clearTimeout(timer);
                clearInterval(ticker);
                settle(value);
            };
            const check = async () => {
                if (ended || looking) {
                    again = true;
                    return;
                }
                looking = true;
                again = false;
                try {
                    const found = await look();
                    if (found !== undefined) return end(resolve, found);
                } catch (e) {
                    return end(reject, e);
                }
                looking = false;
                // Not at once: looking may itself be something that the SDK tells of, and
                // without a pause nothing else would ever run.
                if (again) setTimeout(check, 10);
            };
            const timer = setTimeout(async () => {
                const why = await Promise.resolve(missing()).catch((e) => String(e));
                end(reject, new Error(`not seen after ${deadline} ms: ${why}`));
            }, deadline);
            const ticker = setInterval(check, 100);
            this.watchers.add(check);
            check();
        });
    }
}
