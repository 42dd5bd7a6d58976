// Commands about identities, devices, secret storage, backup and keys.

import { OlmMachine, OtherUserIdentity, UserId } from "@matrix-org/matrix-sdk-crypto-wasm";

// authenticate answers the server's user-interactive auth with the account's password.
function authenticate(peer, password = peer.password) {
    return async (request) => {
        try {
            return await request(null);
        } catch (e) {
            if (e.httpStatus !== 401 || !e.data?.session) throw e;
            return request({
                type: "m.login.password",
                identifier: { type: "m.id.user", user: peer.client.getUserId() },
                password,
                session: e.data.session,
            });
        }
    };
}

async function newSecretStorage(peer) {
    const key = await peer.crypto.createRecoveryKeyFromPassphrase();
    peer.recoveryKey = key.privateKey;
    await peer.crypto.bootstrapSecretStorage({
        createSecretStorageKey: async () => key,
        setupNewSecretStorage: true,
        setupNewKeyBackup: true,
    });
    return { recovery_key: key.encodedPrivateKey };
}

// signIdentity does what the end of a verification does: it signs the user's master
// key by our user-signing key. The SDK offers that through verification only.
async function signIdentity(peer, user) {
    const identity = await peer.crypto.getOlmMachineOrThrow().getIdentity(new UserId(user));
    if (!(identity instanceof OtherUserIdentity)) throw new Error(`no identity of another user ${user}`);
    await peer.crypto.outgoingRequestProcessor.makeOutgoingRequest(await identity.verify());
}

async function userStatus(peer, user) {
    const status = await peer.crypto.getUserVerificationStatus(user);
    const keys = await peer.crypto.getUserCrossSigningKeys(user);
    return {
        known: status.known,
        verified: status.isVerified(),
        was_verified: status.wasCrossSigningVerified(),
        needs_approval: status.needsUserApproval,
        master_key: Object.values(keys?.master_key?.keys ?? {})[0] ?? "",
    };
}

async function devices(peer, user) {
    const map = await peer.crypto.getUserDeviceInfo([user], true);
    const list = [];
    for (const device of map.get(user)?.values() ?? []) {
        const status = await peer.crypto.getDeviceVerificationStatus(user, device.deviceId);
        list.push({
            device_id: device.deviceId,
            signed: Boolean(status?.signedByOwner),
            trusted: Boolean(status?.crossSigningVerified),
            ed25519: device.getFingerprint() ?? "",
            curve25519: device.getIdentityKey() ?? "",
        });
    }
    return list;
}

export const cryptoCommands = {
    setExcludeInsecure: (peer, { on }) => peer.setIsolation(on),

    // bootstrap makes identity, secret storage and backup for an account that has none.
    async bootstrap(peer, { password }) {
        await peer.crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: authenticate(peer, password) });
        return newSecretStorage(peer);
    },

    // reset replaces identity, secret storage and backup, as Element does: the old ones go
    // first, then comes the new identity, then recovery is set up.
    async reset(peer, { password }) {
        await peer.crypto.resetEncryption(authenticate(peer, password));
        return newSecretStorage(peer);
    },

    // recover takes identity and backup from secret storage and signs this device.
    async recover(peer, { recovery_key }) {
        peer.useRecoveryKey(recovery_key);
        // The private keys are taken only if they fit the public ones.
        await peer.crypto.userHasCrossSigningKeys(peer.client.getUserId(), true);
        await peer.crypto.bootstrapCrossSigning({});
        await peer.crypto.loadSessionBackupPrivateKeyFromSecretStorage();
        await peer.crypto.checkKeyBackupAndEnable();
        return peer.crypto.getCrossSigningStatus();
    },

    async restoreBackup(peer) {
        const { total, imported } = await peer.crypto.restoreKeyBackup();
        return { total, imported };
    },

    resetBackup: (peer) => peer.crypto.resetKeyBackup(),

    crossSigningStatus: (peer) => peer.crypto.getCrossSigningStatus(),
    secretStorageStatus: (peer) => peer.crypto.getSecretStorageStatus(),
    backupInfo: (peer) => peer.crypto.getKeyBackupInfo(),

    // signDevice signs another device of the own user.
    signDevice: (peer, { device }) => peer.crypto.crossSignDevice(device),

    signIdentity: (peer, { user }) => signIdentity(peer, user),
    pinIdentity: (peer, { user }) => peer.crypto.pinCurrentUserIdentity(user),
    withdrawVerification: (peer, { user }) => peer.crypto.withdrawVerificationRequirement(user),
    userStatus: (peer, { user }) => userStatus(peer, user),
    devices: (peer, { user }) => devices(peer, user),

    // awaitDevice waits until this client knows a device in the given state.
    awaitDevice: (peer, { user, device, signed, timeout }) =>
        peer.until(
            async () => (await devices(peer, user)).find((d) => d.device_id === device && d.signed === signed),
            timeout,
            async () => `device ${device} with signed=${signed}; known: ${JSON.stringify(await devices(peer, user))}`,
        ),

    awaitUserStatus: (peer, { user, want, timeout }) =>
        peer.until(
            async () => {
                const status = await userStatus(peer, user);
                return Object.keys(want).every((k) => status[k] === want[k]) ? status : undefined;
            },
            timeout,
            async () => `${JSON.stringify(want)}; is: ${JSON.stringify(await userStatus(peer, user))}`,
        ),

    async sendToDeviceEncrypted(peer, { type, devices: list, content }) {
        const batch = await peer.crypto.encryptToDeviceMessages(
            type,
            list.map((d) => ({ userId: d.user_id, deviceId: d.device_id })),
            content,
        );
        await peer.client.queueToDevice(batch);
        return { sent: batch.batch.length };
    },

    discardSession: (peer, { room }) => peer.crypto.forceDiscardSession(room),
    exportKeys: async (peer) => JSON.parse(await peer.crypto.exportRoomKeysAsJson()),
    importKeys: (peer, { keys }) => peer.crypto.importRoomKeysAsJson(JSON.stringify(keys)),

    // The same as files that a passphrase opens.
    exportFile: async (peer, { passphrase }) =>
        OlmMachine.encryptExportedRoomKeys(await peer.crypto.exportRoomKeysAsJson(), passphrase, 100_000),
    importFile: (peer, { passphrase, file }) =>
        peer.crypto.importRoomKeysAsJson(OlmMachine.decryptExportedRoomKeys(file, passphrase)),
};
