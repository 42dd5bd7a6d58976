package testpeer

import "encoding/json"

// SetExcludeInsecure switches "exclude insecure devices".
func (c *Client) SetExcludeInsecure(on bool) {
	c.t.Helper()
	c.do("setExcludeInsecure", map[string]any{"on": on}, nil)
}

// Bootstrap makes identity, secret storage and backup for a user that has none.
func (c *Client) Bootstrap(password string) {
	c.t.Helper()
	c.secretStorage("bootstrap", password)
}

// Reset replaces identity, secret storage and backup.
func (c *Client) Reset(password string) {
	c.t.Helper()
	c.secretStorage("reset", password)
}

func (c *Client) secretStorage(cmd, password string) {
	c.t.Helper()
	var made struct {
		RecoveryKey string `json:"recovery_key"`
	}
	c.do(cmd, map[string]any{"password": password}, &made)
	c.RecoveryKey = made.RecoveryKey
}

// Recover takes identity and backup from secret storage and signs this device.
func (c *Client) Recover(recoveryKey string) {
	c.t.Helper()
	c.do("recover", map[string]any{"recovery_key": recoveryKey}, nil)
	c.RecoveryKey = recoveryKey
}

// RestoreBackup loads all keys of the backup and returns how many.
func (c *Client) RestoreBackup() int {
	c.t.Helper()
	var restored struct {
		Imported int `json:"imported"`
	}
	c.do("restoreBackup", nil, &restored)
	return restored.Imported
}

// ResetBackup makes a new backup, under a new key.
func (c *Client) ResetBackup() {
	c.t.Helper()
	c.do("resetBackup", nil, nil)
}

// SignDevice signs another device of the same user.
func (c *Client) SignDevice(device string) {
	c.t.Helper()
	c.do("signDevice", map[string]any{"device": device}, nil)
}

// SignIdentity verifies another user: it signs the user's current master key.
func (c *Client) SignIdentity(user string) {
	c.t.Helper()
	c.do("signIdentity", map[string]any{"user": user}, nil)
}

// PinIdentity acknowledges another user's current identity.
func (c *Client) PinIdentity(user string) {
	c.t.Helper()
	c.do("pinIdentity", map[string]any{"user": user}, nil)
}

// WithdrawVerification withdraws the verification of another user.
func (c *Client) WithdrawVerification(user string) {
	c.t.Helper()
	c.do("withdrawVerification", map[string]any{"user": user}, nil)
}

// UserStatus is what a client thinks of a user's identity.
type UserStatus struct {
	Known         bool   `json:"known"`
	Verified      bool   `json:"verified"`
	WasVerified   bool   `json:"was_verified"`
	NeedsApproval bool   `json:"needs_approval"`
	MasterKey     string `json:"master_key"`
}

// UserStatus returns what this client thinks of a user's identity now.
func (c *Client) UserStatus(user string) UserStatus {
	c.t.Helper()
	var s UserStatus
	c.do("userStatus", map[string]any{"user": user}, &s)
	return s
}

// AwaitUserStatus waits until the properties named, by their JSON names, are so.
func (c *Client) AwaitUserStatus(user string, want map[string]any) UserStatus {
	c.t.Helper()
	var s UserStatus
	c.do("awaitUserStatus", map[string]any{"user": user, "want": want}, &s)
	return s
}

// Device is what a client knows of a device.
type Device struct {
	DeviceID   string `json:"device_id"`
	Signed     bool   `json:"signed"`  // by its owner's current identity
	Trusted    bool   `json:"trusted"` // signed, and this client verified the owner
	Ed25519    string `json:"ed25519"`
	Curve25519 string `json:"curve25519"`
}

// Devices returns a user's devices with keys, asked of the server now.
func (c *Client) Devices(user string) []Device {
	c.t.Helper()
	var all []Device
	c.do("devices", map[string]any{"user": user}, &all)
	return all
}

// AwaitDevice waits until this client knows a device, signed or not.
func (c *Client) AwaitDevice(user, device string, signed bool) Device {
	c.t.Helper()
	var d Device
	c.do("awaitDevice", map[string]any{"user": user, "device": device, "signed": signed}, &d)
	return d
}

// CrossSigningStatus is what a client has of its own user's identity.
type CrossSigningStatus struct {
	PublicKeysOnDevice         bool `json:"publicKeysOnDevice"`
	PrivateKeysInSecretStorage bool `json:"privateKeysInSecretStorage"`
	PrivateKeysCachedLocally   struct {
		MasterKey      bool `json:"masterKey"`
		SelfSigningKey bool `json:"selfSigningKey"`
		UserSigningKey bool `json:"userSigningKey"`
	} `json:"privateKeysCachedLocally"`
}

// CrossSigningStatus returns what this client has of its own user's identity.
func (c *Client) CrossSigningStatus() CrossSigningStatus {
	c.t.Helper()
	var s CrossSigningStatus
	c.do("crossSigningStatus", nil, &s)
	return s
}

// DiscardSession makes the next message of the room use a new room key.
func (c *Client) DiscardSession(room string) {
	c.t.Helper()
	c.do("discardSession", map[string]any{"room": room}, nil)
}

// ExportKeys returns all room keys.
func (c *Client) ExportKeys() []json.RawMessage {
	c.t.Helper()
	var keys []json.RawMessage
	c.do("exportKeys", nil, &keys)
	return keys
}

// ImportKeys loads room keys.
func (c *Client) ImportKeys(keys []json.RawMessage) {
	c.t.Helper()
	c.do("importKeys", map[string]any{"keys": keys}, nil)
}

// ExportFile returns all room keys as a file in the standard format.
func (c *Client) ExportFile(passphrase string) string {
	c.t.Helper()
	var file string
	c.do("exportFile", map[string]any{"passphrase": passphrase}, &file)
	return file
}

// ImportFile loads room keys from such a file.
func (c *Client) ImportFile(passphrase, file string) {
	c.t.Helper()
	c.do("importFile", map[string]any{"passphrase": passphrase, "file": file}, nil)
}

// SendToDevice sends content to devices in clear: user → device → content.
func (c *Client) SendToDevice(eventType string, messages map[string]map[string]any) {
	c.t.Helper()
	c.do("sendToDevice", map[string]any{"type": eventType, "messages": messages}, nil)
}

// DeviceAddress names a device of a user.
type DeviceAddress struct {
	UserID   string `json:"user_id"`
	DeviceID string `json:"device_id"`
}

// SendToDeviceEncrypted sends content to devices through Olm.
func (c *Client) SendToDeviceEncrypted(eventType string, to []DeviceAddress, content any) {
	c.t.Helper()
	c.do("sendToDeviceEncrypted", map[string]any{"type": eventType, "devices": to, "content": content}, nil)
}
