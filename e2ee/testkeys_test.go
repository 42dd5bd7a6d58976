package e2ee_test

import (
	"bytes"
	"errors"
	"testing"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

var errNotYet = errors.New("not yet")

// testKeys returns a master key that is the same every time, so that a database can be
// opened again.
func testKeys(t *testing.T) store.MasterKeys {
	t.Helper()
	keys, err := masterKeys()
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func masterKeys() (store.MasterKeys, error) {
	key, err := store.NewMasterKey(secret.Bytes(bytes.Repeat([]byte{7}, 32)))
	return store.MasterKeys{Current: key}, err
}
