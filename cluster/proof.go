package cluster

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"

	"e2ee-proxy/internal/secret"
)

// Rules of this file:
//   - The secret never leaves the process. Who calls a replica shows a proof that is made of the
//     secret and of the URL that is called, so that it is worth nothing anywhere else.
//   - Who is called shows that it knows the secret too, and is meant by that URL, before it gets
//     anything: the list of URLs is in the database, and who can write there must not get the
//     users' tokens by it.
//   - Proofs are compared in constant time.
//
// Who can read what the replicas say to each other has the tokens anyway: that takes TLS, or a
// network of their own.

// prover makes and checks proofs. Without a secret there are none, and certificates stand in
// for them.
type prover struct{ key secret.Bytes }

// newProver derives the key of all proofs.
func newProver(of secret.String) prover {
	if of.IsZero() {
		return prover{}
	}
	sum := sha256.Sum256([]byte("e2ee-proxy cluster 1\x00" + of.Reveal()))
	return prover{sum[:]}
}

// on reports whether there is a secret.
func (p prover) on() bool { return len(p.key) > 0 }

func (p prover) mac(parts ...string) string {
	m := hmac.New(sha256.New, p.key.Reveal())
	for _, part := range parts {
		_, _ = fmt.Fprintf(m, "%d:", len(part)) // a hash takes everything
		_, _ = io.WriteString(m, part)
	}
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

// toCall returns what shows the replica at a URL that the caller knows the secret.
func (p prover) toCall(url string) string {
	if !p.on() {
		return ""
	}
	return p.mac("call", url)
}

// answer returns what shows a caller that the replica at a URL knows the secret.
func (p prover) answer(url, nonce string) string {
	if !p.on() {
		return ""
	}
	return p.mac("answer", url, nonce)
}

func sameProof(a, b string) bool { return hmac.Equal([]byte(a), []byte(b)) }

// newNonce returns a text that was never used.
func newNonce() (string, error) {
	var b [24]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("make a nonce: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(b[:]), nil
}
