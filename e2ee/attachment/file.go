package attachment

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/strictjson"
)

// File is one encrypted file that an account knows.
type File struct {
	// URL is where the ciphertext is, mxc://…
	URL string
	Key Key
	// Type, Name and Size are what its event or its uploader says of the clear file; nobody has
	// checked them.
	Type string
	Name string
	Size int64
	// Copy is where the file is in clear, since the account has named it in clear; empty if
	// it is not.
	Copy string
	// Reserved reports whether the file is still to be uploaded.
	Reserved bool
	// Sent reports whether an event for an encrypted room names it, or did. It is not encoded.
	Sent bool
	// Small is the thumbnail that belongs to the file where it is sent; nil: nobody has looked
	// whether there is one.
	Small *Small
}

// Small is a thumbnail, encrypted. One without a URL says that the file has none.
type Small struct {
	URL           string
	Key           Key
	Type          string
	Size          int64
	Width, Height int
}

// Place returns where the ciphertext is.
func (f *File) Place() (server, mediaID string) {
	server, mediaID, _ = SplitURI(f.URL)
	return server, mediaID
}

// SplitURI returns the parts of a content URI (spec, "Matrix Content (mxc://) URIs").
func SplitURI(uri string) (server, mediaID string, ok bool) {
	rest, ok := strings.CutPrefix(uri, scheme)
	if !ok || len(uri) > maxURI {
		return "", "", false
	}
	n := lengthOf(rest, inServer)
	if n == 0 || n == len(rest) || rest[n] != '/' {
		return "", "", false
	}
	server, mediaID = rest[:n], rest[n+1:]
	return server, mediaID, mediaID != "" && lengthOf(mediaID, inMediaID) == len(mediaID)
}

const (
	scheme = "mxc://"
	maxURI = 512
)

func lengthOf(s string, in func(byte) bool) int {
	for i := range len(s) {
		if !in(s[i]) {
			return i
		}
	}
	return len(s)
}

func alphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

func inServer(c byte) bool  { return alphanumeric(c) || strings.IndexByte(".-:[]", c) >= 0 }
func inMediaID(c byte) bool { return alphanumeric(c) || c == '-' || c == '_' }

// NextURI returns the place of the first content URI in a text; ok is false when there is none.
func NextURI(text string) (from, to int, ok bool) {
	for at := 0; ; {
		i := strings.Index(text[at:], scheme)
		if i < 0 {
			return 0, 0, false
		}
		from = at + i
		server := lengthOf(text[from+len(scheme):], inServer)
		to = from + len(scheme) + server
		if server > 0 && to < len(text) && text[to] == '/' {
			if n := lengthOf(text[to+1:], inMediaID); n > 0 {
				return from, to + 1 + n, true
			}
		}
		at = from + len(scheme)
	}
}

// encrypted returns the file as an EncryptedFile.
func (f *File) encrypted() json.RawMessage {
	raw, _ := json.Marshal(map[string]any{ // it has nothing that cannot be marshalled
		"v": "v2", "url": f.URL,
		"key": map[string]any{
			"kty": "oct", "alg": "A256CTR", "ext": true, "key_ops": []string{"encrypt", "decrypt"},
			"k": base64.RawURLEncoding.EncodeToString(f.Key.Secret[:]),
		},
		"iv":     base64.RawStdEncoding.EncodeToString(f.Key.Counter[:]),
		"hashes": map[string]string{"sha256": base64.RawStdEncoding.EncodeToString(f.Key.Hash[:])},
	})
	return raw
}

// readEncrypted reads an EncryptedFile; ok is false for what is none that can be read.
func readEncrypted(o strictjson.Object) (f File, ok bool) {
	key := o.Object("key")
	switch {
	case o.TextOrEmpty("v") != "v2" && o.Get("v") != nil, key.TextOrEmpty("kty") != "oct", key.TextOrEmpty("alg") != "A256CTR":
		return File{}, false
	}
	f.URL = o.TextOrEmpty("url")
	_, _, ok = SplitURI(f.URL)
	return f, ok && decodeInto(f.Key.Secret[:], key.TextOrEmpty("k")) && decodeInto(f.Key.Counter[:], o.TextOrEmpty("iv")) &&
		decodeInto(f.Key.Hash[:], o.Object("hashes").TextOrEmpty("sha256"))
}

// decodeInto decodes base64 of either alphabet, padded or not, of exactly the length of to.
func decodeInto(to []byte, text string) bool {
	text = strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(text, "="))
	raw, err := base64.RawStdEncoding.DecodeString(text)
	defer clear(raw)
	return err == nil && copy(to, raw) == len(to) && len(raw) == len(to)
}

// stored is a file as it is stored, sealed.
type stored struct {
	URL      string `json:"url"`
	Secret   []byte `json:"key,omitempty"`
	Counter  []byte `json:"iv,omitempty"`
	Hash     []byte `json:"hash,omitempty"`
	Type     string `json:"type,omitempty"`
	Name     string `json:"name,omitempty"`
	Size     int64  `json:"size,omitempty"`
	Copy     string `json:"copy,omitempty"`
	Reserved bool   `json:"reserved,omitempty"`

	Small         *stored `json:"small,omitempty"`
	Width, Height int     `json:",omitempty"`
}

// Encode returns the file as it is stored, to be sealed.
func (f *File) Encode() (secret.Bytes, error) {
	s := stored{URL: f.URL, Type: f.Type, Name: f.Name, Size: f.Size, Copy: f.Copy, Reserved: f.Reserved}
	if f.Small != nil {
		s.Small = &stored{
			URL: f.Small.URL, Secret: f.Small.Key.Secret[:], Counter: f.Small.Key.Counter[:], Hash: f.Small.Key.Hash[:],
			Type: f.Small.Type, Size: f.Small.Size, Width: f.Small.Width, Height: f.Small.Height,
		}
	}
	if !f.Reserved {
		s.Secret, s.Counter, s.Hash = f.Key.Secret[:], f.Key.Counter[:], f.Key.Hash[:]
	}
	return json.Marshal(s)
}

var errDamaged = errors.New("what is stored of a file is damaged")

// Decode reads what [File.Encode] wrote, and overwrites it.
func Decode(raw secret.Bytes) (File, error) {
	defer raw.Wipe()
	var s stored
	if json.Unmarshal(raw.Reveal(), &s) != nil {
		return File{}, errDamaged
	}
	f := File{URL: s.URL, Type: s.Type, Name: s.Name, Size: s.Size, Copy: s.Copy, Reserved: s.Reserved}
	defer clear(s.Secret)
	if s.Reserved {
		return f, nil
	}
	if !s.into(&f.Key) {
		return File{}, errDamaged
	}
	if s.Small != nil {
		f.Small = &Small{URL: s.Small.URL, Type: s.Small.Type, Size: s.Small.Size, Width: s.Small.Width, Height: s.Small.Height}
		if !s.Small.into(&f.Small.Key) {
			return File{}, errDamaged
		}
	}
	return f, nil
}

// into reports whether there is a whole key, and returns it.
func (s *stored) into(k *Key) bool {
	return copy(k.Secret[:], s.Secret) == len(k.Secret) && copy(k.Counter[:], s.Counter) == len(k.Counter) && copy(k.Hash[:], s.Hash) == len(k.Hash)
}
