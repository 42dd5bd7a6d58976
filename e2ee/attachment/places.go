package attachment

import (
	"bytes"
	"encoding/json"
	"slices"

	"e2ee-proxy/internal/strictjson"
)

// Where files stand in the content of an event, as data. Both directions use it.

// form is how an object names a file.
type form int

const (
	formNone form = iota
	// formBeside: url in clear, file encrypted (m.image and the other msgtypes, m.sticker, the
	// elements of a gallery, MSC4274, and org.matrix.msc1767.file of voice messages).
	formBeside
	// formThumbnail: thumbnail_url in clear, thumbnail_file encrypted.
	formThumbnail
	// formInside: the members of an EncryptedFile are those of the object (m.file of extensible
	// events, MSC3551).
	formInside
)

// names returns the members that name the file, in clear and encrypted.
func (f form) names() (clear, encrypted string) {
	switch f {
	case formBeside:
		return "url", "file"
	case formThumbnail:
		return "thumbnail_url", "thumbnail_file"
	case formInside:
		return "url", ""
	case formNone:
	}
	return "", ""
}

// insideOnly are the members that an encrypted file of [formInside] has more than a clear one.
func insideOnly() []string { return []string{"v", "key", "iv", "hashes"} }

// shape is an object in an event's content: how it names a file itself, which of its members
// are such objects or lists of them, and which of its texts are HTML.
type shape struct {
	form    form
	members map[string]*shape
	html    []string
}

// contentShape returns the shape of an event's content.
func contentShape() *shape {
	info := &shape{form: formThumbnail}
	extensible := &shape{form: formInside}
	message := func() *shape {
		return &shape{form: formBeside, html: []string{"formatted_body", "org.matrix.msc1767.html"}, members: map[string]*shape{
			"info":                    info,
			"m.file":                  extensible,
			"m.thumbnail":             {members: map[string]*shape{"m.file": extensible}},
			"org.matrix.msc1767.file": {form: formBeside},
			"m.text":                  {html: []string{"body"}},
			"m.caption":               {members: map[string]*shape{"m.text": {html: []string{"body"}}}},
		}}
	}
	content := message()
	content.members["itemtypes"] = message()
	edit := message()
	edit.members["itemtypes"] = content.members["itemtypes"]
	content.members["m.new_content"] = edit
	return content
}

// most is how many files of one event are shown.
const most = 256

// visit returns what takes the place of an object that has a shape.
type visit func(s *shape, o strictjson.Object) (strictjson.Object, error)

// each visits every object of the shape in a value, the inner ones first.
func (s *shape) each(raw json.RawMessage, do visit) (json.RawMessage, error) {
	if len(raw) > 0 && raw[0] == '[' {
		return s.eachOf(raw, do)
	}
	o, err := strictjson.Parse(raw)
	if err != nil {
		return raw, nil //nolint:nilerr // what is no object names no file
	}
	for i := range o {
		inner := s.members[o[i].Name]
		if inner == nil {
			continue
		}
		if o[i].Value, err = inner.each(o[i].Value, do); err != nil {
			return nil, err
		}
	}
	if o, err = do(s, o); err != nil {
		return nil, err
	}
	return o.Encode(), nil
}

func (s *shape) eachOf(raw json.RawMessage, do visit) (json.RawMessage, error) {
	list := strictjson.Object{{Name: "", Value: raw}}.List("")
	out := make([][]byte, len(list))
	for i, v := range list {
		changed, err := s.each(v, do)
		if err != nil {
			return nil, err
		}
		out[i] = changed
	}
	return slices.Concat([]byte("["), bytes.Join(out, []byte(",")), []byte("]")), nil
}

// encryptedIn returns the encrypted file that an object names.
func encryptedIn(s *shape, o strictjson.Object) (File, bool) {
	_, name := s.form.names()
	at := o
	if s.form == formNone {
		return File{}, false
	}
	if s.form != formInside {
		at = o.Object(name)
	}
	if at.Get("key") == nil {
		return File{}, false
	}
	f, ok := readEncrypted(at)
	describe(&f, s.form, o)
	return f, ok
}

// describe takes over what an event says of a file.
func describe(f *File, how form, o strictjson.Object) {
	if how == formThumbnail {
		f.Type, f.Name = shorten(o.Object("thumbnail_info").TextOrEmpty("mimetype")), "thumbnail"
		return
	}
	f.Type = firstOf(o.Object("info").TextOrEmpty("mimetype"), o.TextOrEmpty("mimetype"))
	f.Name = firstOf(o.TextOrEmpty("filename"), o.TextOrEmpty("name"), o.TextOrEmpty("body"))
}

// firstOf returns the first text that is not empty, shortened.
func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return shorten(t)
		}
	}
	return ""
}

// maxText is the longest name or type that is kept, in bytes.
const maxText = 255

func shorten(s string) string {
	if len(s) <= maxText {
		return s
	}
	end := maxText
	for end > 0 && s[end]&0xc0 == 0x80 {
		end--
	}
	return s[:end]
}
