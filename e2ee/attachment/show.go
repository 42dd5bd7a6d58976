package attachment

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"

	"e2ee-proxy/internal/strictjson"
)

// madeUp begins the media IDs that are made here. The homeserver knows none of them.
const madeUp = "e2eeproxy"

// MadeHere reports whether a media ID is one of those that are made here.
func MadeHere(mediaID string) bool { return strings.HasPrefix(mediaID, madeUp) }

// MadeUpURI returns a URI that is made here, of a name that nobody can guess.
func MadeUpURI(server string, name []byte) string {
	return scheme + server + "/" + madeUp + base64.RawURLEncoding.EncodeToString(name)
}

// MadeUpName returns the name that was given to MadeUpURI.
func MadeUpName(uri string) (server string, name []byte, ok bool) {
	server, mediaID, ok := SplitURI(uri)
	text, here := strings.CutPrefix(mediaID, madeUp)
	name, err := base64.RawURLEncoding.DecodeString(text)
	return server, name, ok && here && err == nil
}

// MayHave reports whether the content of an event may name an encrypted file. It is a quick
// check that nearly all fail.
func MayHave(content []byte) bool {
	return bytes.Contains(content, []byte(`"hashes"`)) || bytes.Contains(content, []byte(`\u`))
}

// In returns the encrypted files that a content names, unless there are very many.
func In(content json.RawMessage) []File {
	var all []File
	_, _ = contentShape().each(content, func(s *shape, o strictjson.Object) (strictjson.Object, error) {
		if f, ok := encryptedIn(s, o); ok && len(all) < most {
			all = append(all, f)
		}
		return o, nil
	})
	return all
}

// InClearIn returns the content URIs by which a content names files, where those could be
// encrypted; a file that its client has encrypted by itself is none. There may be some twice.
func InClearIn(content json.RawMessage) []string {
	var all []string
	_, _ = contentShape().each(content, func(s *shape, o strictjson.Object) (strictjson.Object, error) {
		clearName, _ := s.form.names()
		uri := o.TextOrEmpty(clearName)
		if _, encrypted := encryptedIn(s, o); encrypted || s.form == formNone || len(all) >= most {
			return o, nil
		}
		if _, _, ok := SplitURI(uri); ok {
			all = append(all, uri)
		}
		return o, nil
	})
	return all
}

// Show returns a content with the URIs by which clients can have its files in clear; a file
// without one stays as it is.
func Show(content json.RawMessage, uriOf func(*File) string) json.RawMessage {
	changed, err := contentShape().each(content, func(s *shape, o strictjson.Object) (strictjson.Object, error) {
		f, ok := encryptedIn(s, o)
		if !ok {
			return o, nil
		}
		if uri := uriOf(&f); uri != "" {
			return withURI(s.form, o, uri), nil
		}
		return o, nil
	})
	if err != nil { // nothing above fails
		return content
	}
	return changed
}

// withURI returns an object that names a file in clear instead of encrypted.
func withURI(how form, o strictjson.Object, uri string) strictjson.Object {
	clearName, name := how.names()
	if how == formInside {
		for _, inside := range insideOnly() {
			o = o.Without(inside)
		}
		return o.Set(clearName, strictjson.Quote(uri))
	}
	o = o.Without(clearName)
	for i := range o {
		if o[i].Name == name {
			o[i] = strictjson.Member{Name: clearName, Value: strictjson.Quote(uri)}
		}
	}
	return o
}
