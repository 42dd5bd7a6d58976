package keybackup

import (
	"crypto/ecdh"
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"

	"maunium.net/go/mautrix/crypto/backup"
	"maunium.net/go/mautrix/crypto/signatures"

	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/trustcache"
)

// AlgorithmBackup is the only backup algorithm in the specification.
const AlgorithmBackup = "m.megolm_backup.v1.curve25519-aes-sha2"

// The account data that says whether the user wants a backup (requirement 16.7).
const (
	AccountDataWanted = "m.key_backup"
	// AccountDataDisabled is the name that Element's clients used before m.key_backup, and
	// still write (MSC4287): {"disabled": true}.
	AccountDataDisabled = "m.org.matrix.custom.backup_disabled"
)

// Version is the homeserver's newest backup.
type Version struct {
	Algorithm string          `json:"algorithm"`
	AuthData  json.RawMessage `json:"auth_data"`
	Version   string          `json:"version"`
	Count     int             `json:"count"`
}

// PublicKey returns the backup's public key; nil when its algorithm or data is unknown.
func (v *Version) PublicKey() *ecdh.PublicKey {
	if v == nil || v.Algorithm != AlgorithmBackup || v.Version == "" {
		return nil
	}
	obj, err := strictjson.Parse(v.AuthData)
	if err != nil {
		return nil
	}
	text, _ := obj.Text("public_key")
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil {
		return nil
	}
	key, err := ecdh.X25519().NewPublicKey(raw)
	if err != nil {
		return nil
	}
	return key
}

// Trusts reports whether the backup's public key belongs to a private key that we hold,
// which came from a trusted source (requirement 16.1).
func (v *Version) Trusts(key *backup.MegolmBackupKey) bool {
	public := v.PublicKey()
	return public != nil && key != nil && key.PublicKey().Equal(public)
}

// Before reports whether a version is older than another, as far as they are numbers: the
// specification does not say so, but those of Synapse and Dendrite grow.
func (v *Version) Before(other string) bool {
	this, err := strconv.ParseUint(v.Version, 10, 63)
	if err != nil {
		return false
	}
	that, err := strconv.ParseUint(other, 10, 63)
	return err == nil && this < that
}

// SignedBy reports whether the account's identity, or a device that it has confirmed, has
// signed the backup (requirement 16.1). The identity must be verified: a homeserver can
// make one up and sign anything with it (attack A14).
func (v *Version) SignedBy(own *trustcache.User) bool {
	if v.PublicKey() == nil || !own.Known() || !own.Verified {
		return false
	}
	if ok, err := signatures.VerifySignatureJSON(v.AuthData, own.UserID, own.Current.String(), own.Current); err == nil && ok {
		return true
	}
	for i := range own.Devices {
		dev := &own.Devices[i]
		if !dev.Signed || !dev.Usable() {
			continue
		}
		if ok, err := signatures.VerifySignatureJSON(v.AuthData, own.UserID, dev.DeviceID.String(), dev.Ed25519); err == nil && ok {
			return true
		}
	}
	return false
}
