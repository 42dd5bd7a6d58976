package attachment

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"e2ee-proxy/internal/strictjson"
)

// Copy returns the URI at which a file is in clear. It may have to make a copy first.
type Copy func(uri string, f File) (string, error)

// ErrReserved means that a file is named before it was uploaded.
var ErrReserved = errors.New("the file is not uploaded yet")

// ErrNamedTwice means that the homeserver gave a new file the place of another one.
var ErrNamedTwice = errors.New("the homeserver gave a file the place of another one")

// Hide returns the content of an event for an encrypted room with the files that known has
// named encrypted: file instead of url. It returns the URIs of those. What others must read
// without a key, pictures in HTML and what the client has encrypted by itself, is copied.
func Hide(content json.RawMessage, known map[string]File, toCopy Copy) (hidden json.RawMessage, used []string, err error) {
	hidden, err = contentShape().each(content, func(s *shape, o strictjson.Object) (strictjson.Object, error) {
		for _, name := range s.html {
			text, ok := o.Text(name)
			if !ok || !strings.Contains(text, scheme) {
				continue
			}
			text, err := replaceURIs(text, known, copyFresh(toCopy))
			if err != nil {
				return nil, err
			}
			o = o.Set(name, strictjson.Quote(text))
		}
		o, uri, err := hideOne(s.form, o, known, toCopy)
		if uri != "" {
			used = append(used, uri)
		}
		return o, err
	})
	return hidden, used, err
}

// WithThumbnail returns the content of a message with a picture that names its thumbnail.
func WithThumbnail(content json.RawMessage, small *Small) (json.RawMessage, error) {
	o, err := strictjson.Parse(content)
	if err != nil {
		return nil, fmt.Errorf("name a thumbnail: %w", err)
	}
	what, err := json.Marshal(map[string]any{"w": small.Width, "h": small.Height, "mimetype": small.Type, "size": small.Size})
	if err != nil {
		return nil, fmt.Errorf("name a thumbnail: %w", err)
	}
	f := File{URL: small.URL, Key: small.Key}
	info := o.Object("info").Without("thumbnail_url").Set("thumbnail_file", f.encrypted()).Set("thumbnail_info", what)
	return o.Set("info", info.Encode()).Encode(), nil
}

// hideOne hides the file that an object names itself.
func hideOne(how form, o strictjson.Object, known map[string]File, toCopy Copy) (strictjson.Object, string, error) {
	if how == formNone {
		return o, "", nil
	}
	clearName, name := how.names()
	own := o.Object(name) // what the client has encrypted by itself
	if how == formInside {
		own = o
	}
	if _, encrypted := readEncrypted(own); encrypted {
		return copyOwn(how, o, own, known, toCopy)
	}
	uri := o.TextOrEmpty(clearName)
	f, ok := known[uri]
	switch {
	case !ok:
		return o, "", nil
	case f.Reserved:
		return nil, "", ErrReserved
	}
	encrypted := f.encrypted()
	if how == formInside {
		members, err := strictjson.Parse(encrypted)
		if err != nil {
			return nil, "", fmt.Errorf("name an encrypted file: %w", err)
		}
		for _, m := range members {
			o = o.Set(m.Name, m.Value)
		}
		return o, uri, nil
	}
	o = o.Without(name)
	for i := range o {
		if o[i].Name == clearName {
			o[i] = strictjson.Member{Name: name, Value: encrypted}
		}
	}
	return o, uri, nil
}

// copyOwn replaces the place of a file that the client has encrypted by itself and that was
// encrypted here once more when it was uploaded: by a copy that is not.
func copyOwn(how form, o, own strictjson.Object, known map[string]File, toCopy Copy) (strictjson.Object, string, error) {
	uri := own.TextOrEmpty("url")
	f, ok := known[uri]
	if !ok {
		return o, "", nil
	}
	f.Name, f.Type = "", "" // the copy is no more for everybody than the message is
	at, err := copyOf(uri, f, copyFresh(toCopy))
	if err != nil {
		return nil, "", err
	}
	own = own.Set("url", strictjson.Quote(at))
	if how == formInside {
		return own, "", nil
	}
	clearName, name := how.names()
	return o.Without(clearName).Set(name, own.Encode()), "", nil
}

func copyOf(uri string, f File, toCopy Copy) (string, error) {
	if f.Reserved {
		return "", ErrReserved
	}
	return toCopy(uri, f)
}

// copyFresh copies files that no event for an encrypted room names yet. The homeserver, and those
// in the room, know the URI of one that is sent: they need only say it in a text that a client
// quotes, repeats or reacts with, to get the file in clear. Of such a file a text names what is
// in clear already, or what it says. A URI that was made here is known to nobody else, so that the
// client means it; and it may be a link, which nobody else may see.
func copyFresh(toCopy Copy) Copy {
	return func(uri string, f File) (string, error) {
		if _, mediaID, _ := SplitURI(uri); f.Sent && f.Copy == "" && !MadeHere(mediaID) {
			return uri, nil
		}
		return toCopy(uri, f)
	}
}

// isReference reports whether a text of this name is the URI of a file and nothing else: clients
// do not repeat those after others, as they do with what people write.
func isReference(name, text string) bool {
	_, _, ok := SplitURI(text)
	name = strings.ToLower(name)
	return ok && (strings.HasSuffix(name, "url") || strings.HasSuffix(name, "uri"))
}

// replaceURIs replaces the URIs of known files in a text by those of their copies.
func replaceURIs(text string, known map[string]File, toCopy Copy) (string, error) {
	var out strings.Builder
	for {
		from, to, ok := NextURI(text)
		if !ok {
			out.WriteString(text)
			return out.String(), nil
		}
		uri := text[from:to]
		out.WriteString(text[:from])
		text = text[to:]
		if f, ok := known[uri]; ok {
			var err error
			if uri, err = copyOf(uri, f, toCopy); err != nil {
				return "", err
			}
		}
		out.WriteString(uri)
	}
}

// MayNameURIs reports whether a body may have content URIs in it.
func MayNameURIs(raw []byte) bool {
	return bytes.Contains(raw, []byte("mxc:")) || bytes.Contains(raw, []byte(`\`)) && bytes.Contains(raw, []byte("mxc")) || bytes.Contains(raw, []byte(`\u`))
}
