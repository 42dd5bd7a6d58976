package testpeer

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/json"
)

// Pattern returns bytes that differ everywhere, the same for the same seed. A client makes
// them by itself, so that large files need not go to it.
func Pattern(seed string, size int) []byte {
	key := sha256.Sum256([]byte(seed))
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // the key has the right length
	}
	out := make([]byte, size)
	cipher.NewCTR(block, make([]byte, aes.BlockSize)).XORKeyStream(out, out)
	return out
}

// UploadEncrypted uploads a Pattern encrypted, as Element does, and returns the EncryptedFile
// for an event.
func (c *Client) UploadEncrypted(seed string, size int) json.RawMessage {
	c.t.Helper()
	var file json.RawMessage
	c.do("uploadEncrypted", map[string]any{"seed": seed, "size": size}, &file)
	return file
}

// UploadBytesEncrypted is like UploadEncrypted, for bytes of the test's.
func (c *Client) UploadBytesEncrypted(data []byte) json.RawMessage {
	c.t.Helper()
	var file json.RawMessage
	c.do("uploadEncrypted", map[string]any{"data": data}, &file)
	return file
}

// ReadFile is an encrypted file that was read.
type ReadFile struct {
	Size int `json:"size"`
	// SHA256 is that of the clear bytes, Sealed that of the ciphertext; hexadecimal.
	SHA256 string `json:"sha256"`
	Sealed string `json:"sealed_sha256"`
}

// ReadEncrypted downloads the file of an EncryptedFile, checks its hash and decrypts it.
func (c *Client) ReadEncrypted(file json.RawMessage) ReadFile {
	c.t.Helper()
	var read ReadFile
	c.do("readEncrypted", map[string]any{"file": file}, &read)
	return read
}
