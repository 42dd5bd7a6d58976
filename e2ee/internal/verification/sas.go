package verification

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"maunium.net/go/mautrix/crypto/canonicaljson"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
)

// What m.sas.v1 is done with; nothing else is offered or accepted (requirements 13.11, 13.13).
const (
	agreement = "curve25519-hkdf-sha256"
	hashing   = "sha256"
	macMethod = "hkdf-hmac-sha256.v2"
	decimal   = "decimal"
	emoji     = "emoji"
)

// end is one end of a key agreement: whose it is, and its public key as it was sent.
type end struct {
	user   id.UserID
	device id.DeviceID
	key    string
}

// ephemeral is a key of one flow. It is used once.
type ephemeral struct{ key *ecdh.PrivateKey }

func newEphemeral() (ephemeral, error) {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return ephemeral{}, fmt.Errorf("make a key: %w", err)
	}
	return ephemeral{key}, nil
}

func (e ephemeral) public() string { return wire.Base64(e.key.PublicKey().Bytes()) }

// agree computes the shared secret. A key of small order is refused.
func (e ephemeral) agree(theirs string) ([]byte, error) {
	raw, err := base64.RawStdEncoding.DecodeString(theirs)
	if err != nil {
		return nil, strictjson.ErrMalformed
	}
	public, err := ecdh.X25519().NewPublicKey(raw)
	if err != nil {
		return nil, strictjson.ErrMalformed
	}
	shared, err := e.key.ECDH(public)
	if err != nil {
		return nil, strictjson.ErrMalformed
	}
	return shared, nil
}

// commitment is the hash by which a side is bound to its key before it sees the other's
// (requirement 13.12). start is the content of the start event as it was sent.
func commitment(key string, start json.RawMessage) (string, error) {
	canonical := slices.Clone(start)
	if err := canonicaljson.Canonicalize(&canonical); err != nil {
		return "", fmt.Errorf("canonical JSON: %w", err)
	}
	sum := sha256.Sum256(append([]byte(key), canonical...))
	return wire.Base64(sum[:]), nil
}

// sasBytes returns what emoji and numbers are made of (requirement 13.14).
func sasBytes(shared []byte, starter, accepter end, txn string) ([]byte, error) {
	info := strings.Join([]string{
		"MATRIX_KEY_VERIFICATION_SAS",
		starter.user.String(), starter.device.String(), starter.key,
		accepter.user.String(), accepter.device.String(), accepter.key, txn,
	}, "|")
	out, err := hkdf.Key(sha256.New, shared, nil, info, 6)
	if err != nil {
		return nil, fmt.Errorf("derive the emoji: %w", err)
	}
	return out, nil
}

// decimals returns the three numbers (requirement 13.15).
func decimals(b []byte) [3]int {
	n := func(i int) int { return int(b[i]) }
	return [3]int{
		n(0)<<5 + n(1)>>3 + 1000,
		(n(1)&0x7)<<10 + n(2)<<2 + n(3)>>6 + 1000,
		(n(3)&0x3f)<<7 + n(4)>>1 + 1000,
	}
}

// emojiNumbers returns the numbers of the seven emoji.
func emojiNumbers(b []byte) (out [7]int) {
	var bits uint64
	for _, one := range b[:6] {
		bits = bits<<8 | uint64(one)
	}
	for i := range out {
		out[i] = int(bits >> (42 - 6*i) & 0x3f)
	}
	return out
}

// macs are the authentication codes of one side for the other (requirement 13.13).
type macs struct {
	shared   []byte
	from, to end
	txn      string
}

func (m *macs) of(keyID, value string) (string, error) {
	info := "MATRIX_KEY_VERIFICATION_MAC" + m.from.user.String() + m.from.device.String() +
		m.to.user.String() + m.to.device.String() + m.txn + keyID
	key, err := hkdf.Key(sha256.New, m.shared, nil, info, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("derive a key: %w", err)
	}
	mac := hmac.New(sha256.New, key)
	_, _ = mac.Write([]byte(value)) // never fails
	return wire.Base64(mac.Sum(nil)), nil
}

const keyIDs = "KEY_IDS"

// content returns the members of an m.key.verification.mac for some keys, by key ID.
func (m *macs) content(keys map[string]string) ([]strictjson.Member, error) {
	ids := slices.Sorted(maps.Keys(keys))
	list := make(strictjson.Object, 0, len(ids))
	for _, keyID := range ids {
		code, err := m.of(keyID, keys[keyID])
		if err != nil {
			return nil, err
		}
		list = append(list, strictjson.Member{Name: keyID, Value: strictjson.Quote(code)})
	}
	all, err := m.of(keyIDs, strings.Join(ids, ","))
	if err != nil {
		return nil, err
	}
	return []strictjson.Member{{Name: "mac", Value: list.Encode()}, {Name: "keys", Value: strictjson.Quote(all)}}, nil
}

// maxMacs bounds the keys in one message.
const maxMacs = 32

// check returns which of the known keys a received m.key.verification.mac proves. ok is
// false when any code for a known key, or the one for the list, is wrong. Keys that are not
// known are not looked at: whoever has more devices or keys than are known is no attacker.
func (m *macs) check(content strictjson.Object, known map[string]string) (proved map[string]bool, ok bool) {
	list, err := strictjson.Parse(content.Get("mac"))
	all, has := content.Text("keys")
	if err != nil || !has || len(list) == 0 || len(list) > maxMacs {
		return nil, false
	}
	ids := make([]string, 0, len(list))
	for _, one := range list {
		ids = append(ids, one.Name)
	}
	slices.Sort(ids)
	want, err := m.of(keyIDs, strings.Join(ids, ","))
	if err != nil || !same(want, all) {
		return nil, false
	}
	proved = make(map[string]bool)
	for _, keyID := range ids {
		value, is := known[keyID]
		if !is {
			continue
		}
		code, _ := list.Text(keyID)
		want, err := m.of(keyID, value)
		if err != nil || !same(want, code) {
			return nil, false
		}
		proved[keyID] = true
	}
	return proved, true
}

// same compares codes in constant time; padding does not count.
func same(want, got string) bool {
	return hmac.Equal([]byte(want), []byte(strings.TrimRight(got, "=")))
}

//go:embed emoji.txt
var emojiTable string

// emojiOf returns an emoji by its number, with its name in every language that the
// specification has (requirement 13.15).
func emojiOf(number int) Emoji {
	line := 0
	for text := range strings.Lines(emojiTable) {
		if strings.HasPrefix(text, "#") {
			continue
		}
		if line != number {
			line++
			continue
		}
		fields := strings.Split(strings.TrimSuffix(text, "\n"), "\t")
		out := Emoji{Symbol: fields[0], Name: fields[1], Names: make(map[string]string, len(fields)-2)}
		for _, field := range fields[2:] {
			language, name, _ := strings.Cut(field, "=")
			out.Names[language] = name
		}
		return out
	}
	return Emoji{}
}
