package audit

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Checkpoint says what the first Size records of a log are.
type Checkpoint struct {
	Size int64
	Root Hash
}

// Signer signs the checkpoints of one log, and knows them again.
type Signer struct {
	key      ed25519.PrivateKey
	verifier note.Verifier
	public   string
}

// NewSigner returns the signer of a log. name has no space and no plus sign; seed is what
// its key is made of.
func NewSigner(name string, seed [ed25519.SeedSize]byte) (*Signer, error) {
	key := ed25519.NewKeyFromSeed(seed[:])
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: a signing key", ErrMalformed)
	}
	vkey, err := note.NewEd25519VerifierKey(name, public)
	if err != nil {
		return nil, fmt.Errorf("make the log's key: %w", err)
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, fmt.Errorf("make the log's key: %w", err)
	}
	return &Signer{key, verifier, vkey}, nil
}

// Name implements note.Signer.
func (s *Signer) Name() string { return s.verifier.Name() }

// KeyHash implements note.Signer.
func (s *Signer) KeyHash() uint32 { return s.verifier.KeyHash() }

// Sign implements note.Signer.
func (s *Signer) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(s.key, msg), nil }

// PublicKey returns the key by which others check the signature of a checkpoint, as
// golang.org/x/mod/sumdb/note reads it.
func (s *Signer) PublicKey() string { return s.public }

// Write returns a signed checkpoint: a note with the log's name, the size, and the root.
func (s *Signer) Write(c Checkpoint) (string, error) {
	text := fmt.Sprintf("%s\n%d\n%s\n", s.Name(), c.Size, base64.StdEncoding.EncodeToString(c.Root[:]))
	signed, err := note.Sign(&note.Note{Text: text}, s)
	if err != nil {
		return "", fmt.Errorf("sign a checkpoint: %w", err)
	}
	return string(signed), nil
}

// Read reads a signed checkpoint of this log.
func (s *Signer) Read(text []byte) (Checkpoint, error) {
	n, err := note.Open(text, note.VerifierList(s.verifier))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: not a checkpoint that this log signed: %w", ErrMalformed, err)
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) != 4 || lines[0] != s.Name() || lines[3] != "" {
		return Checkpoint{}, fmt.Errorf("%w: a checkpoint has three lines", ErrMalformed)
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return Checkpoint{}, fmt.Errorf("%w: the size of a checkpoint", ErrMalformed)
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != HashSize {
		return Checkpoint{}, fmt.Errorf("%w: the root of a checkpoint", ErrMalformed)
	}
	return Checkpoint{size, Hash(root)}, nil
}

// ReadAll reads a file to which checkpoints were added one after the other.
func (s *Signer) ReadAll(file []byte) ([]Checkpoint, error) {
	var all []Checkpoint
	var one []byte
	signed := false
	if !bytes.HasSuffix(file, []byte("\n")) {
		file = append(bytes.Clone(file), '\n') // an editor took it away
	}
	take := func() error {
		c, err := s.Read(one)
		all, one, signed = append(all, c), nil, false
		return err
	}
	for line := range bytes.Lines(file) {
		isSignature := bytes.HasPrefix(line, []byte("— "))
		if signed && !isSignature {
			if err := take(); err != nil {
				return nil, err
			}
		}
		if len(one) == 0 && len(bytes.TrimSpace(line)) == 0 {
			continue // between two
		}
		one, signed = append(one, line...), isSignature
	}
	if len(one) > 0 {
		if err := take(); err != nil {
			return nil, err
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: no checkpoint in it", ErrMalformed)
	}
	return all, nil
}
