// Commands that send and read encrypted files, as Element does (Client-Server API, "Sending
// encrypted attachments"): the SDK leaves that to the application.

import { createCipheriv, createDecipheriv, createHash, randomBytes } from "node:crypto";

const unpadded = (bytes) => bytes.toString("base64").replaceAll("=", "");

// pattern returns bytes that differ everywhere, the same for the same seed: testpeer.Pattern.
function pattern(seed, size) {
    const key = createHash("sha256").update(seed).digest();
    return createCipheriv("aes-256-ctr", key, Buffer.alloc(16)).update(Buffer.alloc(size));
}

function encrypt(clear) {
    const key = randomBytes(32);
    const iv = Buffer.concat([randomBytes(8), Buffer.alloc(8)]);
    const cipher = createCipheriv("aes-256-ctr", key, iv);
    const sealed = Buffer.concat([cipher.update(clear), cipher.final()]);
    return {
        sealed,
        file: {
            v: "v2",
            key: { alg: "A256CTR", ext: true, k: key.toString("base64url"), key_ops: ["encrypt", "decrypt"], kty: "oct" },
            iv: unpadded(iv),
            hashes: { sha256: unpadded(createHash("sha256").update(sealed).digest()) },
        },
    };
}

async function request(peer, path, options) {
    const response = await fetch(peer.client.baseUrl + path, {
        ...options,
        headers: { ...options?.headers, Authorization: `Bearer ${peer.client.getAccessToken()}` },
    });
    const body = Buffer.from(await response.arrayBuffer());
    if (!response.ok) throw new Error(`${path}: ${response.status} ${body.toString().slice(0, 300)}`);
    return body;
}

async function upload(peer, bytes, type) {
    const answer = await request(peer, "/_matrix/media/v3/upload", { method: "POST", body: bytes, headers: { "Content-Type": type } });
    return JSON.parse(answer).content_uri;
}

const bytesOf = ({ data, seed, size }) => (seed ? pattern(seed, size) : Buffer.from(data ?? "", "base64"));

export const fileCommands = {
    // uploadEncrypted uploads bytes encrypted, and returns the EncryptedFile.
    async uploadEncrypted(peer, args) {
        const { sealed, file } = encrypt(bytesOf(args));
        return { ...file, url: await upload(peer, sealed, "application/octet-stream") };
    },

    // readEncrypted downloads an EncryptedFile, checks and decrypts it.
    async readEncrypted(peer, { file }) {
        const [, server, id] = /^mxc:\/\/([^/]+)\/(.+)$/.exec(file.url);
        const sealed = await request(peer, `/_matrix/client/v1/media/download/${server}/${id}`);
        if (unpadded(createHash("sha256").update(sealed).digest()) !== file.hashes.sha256.replaceAll("=", "")) {
            throw new Error("the hash does not fit");
        }
        const key = Buffer.from(file.key.k, "base64url");
        const clear = createDecipheriv("aes-256-ctr", key, Buffer.from(file.iv, "base64")).update(sealed);
        return {
            size: clear.length,
            sha256: createHash("sha256").update(clear).digest("hex"),
            sealed_sha256: createHash("sha256").update(sealed).digest("hex"),
        };
    },
};
