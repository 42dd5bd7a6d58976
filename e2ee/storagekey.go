package e2ee

import (
	"crypto/aes"
	"encoding/base64"

	"maunium.net/go/mautrix/crypto/ssss"
)

// storageDescription is the default key of an account's secret storage, as the account's
// data describes it (requirements 14.1, 14.4).
type storageDescription struct {
	ID   string
	Meta ssss.KeyMetadata
}

// checkable reports whether the description holds what tells a right key from a wrong
// one (requirement 14.2).
func (s *storageDescription) checkable() bool { return s.Meta.IV != "" && s.Meta.MAC != "" }

// checkableKey makes a key whose check data anybody's AES-CTR computes alike: bit 63 of
// its IV, the first of the counter, is not set (requirement 14.2). The library leaves that
// to chance, so that every other key will do.
func checkableKey() (*ssss.Key, error) {
	for {
		key, err := ssss.NewKey("")
		if err != nil {
			return nil, err
		}
		iv, err := base64.RawStdEncoding.DecodeString(key.Metadata.IV)
		if err != nil {
			return nil, err
		}
		if len(iv) == aes.BlockSize && iv[aes.BlockSize/2]&0x80 == 0 {
			return key, nil
		}
	}
}
