package ownidentity

import (
	"crypto/aes"
	"encoding/base64"
	"errors"
	"strings"

	"maunium.net/go/mautrix/crypto/ssss"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/wire"
)

// storageDescription is the default key of an account's secret storage, as the account's
// data describes it (requirements 14.1, 14.4).
type storageDescription struct {
	ID   string
	Meta ssss.KeyMetadata
}

// checkable reports whether the description can tell a right key from a wrong one
// (requirement 14.2).
func (s *storageDescription) checkable() bool { return s.Meta.IV != "" && s.Meta.MAC != "" }

// checkableKey makes a key whose check data every implementation of AES-CTR computes alike:
// bit 63 of its IV, the first of the counter, is not set (requirement 14.2). The library
// chooses the IV at random, so half of its keys will do.
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

// open returns the key of secret storage if the recovery key or passphrase is right.
func (s *storageDescription) open(with Recovery) (*ssss.Key, error) {
	var key *ssss.Key
	var err error
	if with.Key.IsZero() {
		p := s.Meta.Passphrase
		if p == nil {
			return nil, core.ErrNoPassphrase
		}
		if p.Iterations <= 0 || p.Iterations > wire.MaxIterations || (p.Bits != 0 && (p.Bits < 128 || p.Bits > 512 || p.Bits%8 != 0)) {
			return nil, core.ErrNoSecretStorage
		}
		key, err = s.Meta.VerifyPassphrase(s.ID, with.Passphrase.Reveal())
	} else {
		text := strings.Join(strings.Fields(with.Key.Reveal()), "")
		key, err = s.Meta.VerifyRecoveryKey(s.ID, text)
	}
	switch {
	case errors.Is(err, ssss.ErrUnverifiableKey): // the secrets will show it (requirement 14.2)
		return key, nil
	case errors.Is(err, ssss.ErrCorruptedKeyMetadata), errors.Is(err, ssss.ErrUnsupportedPassphraseAlgorithm):
		return nil, core.ErrNoSecretStorage
	case err != nil:
		return nil, core.ErrWrongRecoveryKey
	}
	return key, nil
}
