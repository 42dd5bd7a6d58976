package interceptors

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"e2ee-proxy/internal/secret"
)

// maxAnswer bounds the homeserver's answers that a handler looks into, in bytes.
const maxAnswer = 256 << 10

// lenient is how a homeserver might read JSON: what is ambiguous passes. It decides
// only whether something is JSON at all, never what it says.
var lenient = json.JoinOptions(
	jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

// MaxValues bounds the JSON values in a request body that is taken apart. An event of 64
// KiB, the largest there is, has no room for more. Without it a body of nothing but short
// values would take dozens of times its size when it is decoded.
const MaxValues = 32 << 10

// DecodingCost bounds the memory that a request body of so many bytes takes at most, from
// its first byte to the answer: the text, what is made of it, and up to [MaxValues] values.
func DecodingCost(size int64) int64 { return 4*size + 160*min(size/2, MaxValues) }

// readBody takes the whole request body, which the route has limited.
func readBody(x *Exchange) ([]byte, error) {
	var in bytes.Buffer
	if n := x.Request.ContentLength; n > 0 && n <= maxSaidLength {
		in.Grow(int(n) + bytes.MinRead) // so that it is not copied while it grows
	}
	_, err := in.ReadFrom(x.Request.Body)
	if err == nil {
		return in.Bytes(), checkValues(in.Bytes())
	}
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, TooLarge(tooLarge.Limit)
	}
	return nil, fmt.Errorf("read the request body: %w", err)
}

// maxSaidLength is the largest length that a client is believed before anything has come, in bytes.
const maxSaidLength = 1 << 20

// checkValues refuses a body with too many values, before anything is made of them. It
// counts what begins a value in a text that may not even be JSON.
func checkValues(raw []byte) error {
	values, quoted := 1, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ',' || c == '[' || c == '{'):
			values++
		}
	}
	if values > MaxValues {
		return NewError(http.StatusRequestEntityTooLarge, CodeTooLarge,
			"The request body has more values in it than any event can have.")
	}
	return nil
}

// putBack makes raw the request body again, so that it can be forwarded byte for byte.
func putBack(x *Exchange, raw []byte) {
	x.Request.Body = io.NopCloser(bytes.NewReader(raw))
	x.Request.ContentLength = int64(len(raw))
}

// putBackOnce is putBack for a body that holds a secret: it is overwritten when it is
// closed, which whoever sends it does.
func putBackOnce(x *Exchange, raw []byte) io.ReadCloser {
	body := &onceBody{left: raw, all: raw}
	x.Request.Body, x.Request.ContentLength = body, int64(len(raw))
	return body
}

// onceBody may be closed while it is read, as an http.RoundTripper may do it.
type onceBody struct {
	mu        sync.Mutex
	left, all []byte
}

func (b *onceBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p, b.left)
	b.left = b.left[n:]
	return n, nil
}

func (b *onceBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.all)
	b.left = nil
	return nil
}

// readObject takes the request body, which must be one JSON object. The answer is the
// body as it came; its strictness is the homeserver's.
func readObject(x *Exchange) ([]byte, error) {
	raw, err := readBody(x)
	if err != nil {
		return nil, err
	}
	return raw, checkObject(raw)
}

// readOptionalObject is readObject where the body may also be blank.
func readOptionalObject(x *Exchange) ([]byte, error) {
	raw, err := readBody(x)
	if err != nil || isBlank(raw) {
		return raw, err
	}
	return raw, checkObject(raw)
}

func isBlank(raw []byte) bool { return len(bytes.TrimSpace(raw)) == 0 }

// checkObject refuses what is not JSON and what is not an object. Its errors say
// nothing of the content.
func checkObject(raw []byte) error {
	value := jsontext.Value(raw)
	if !value.IsValid(lenient) {
		return NotJSON(nil)
	}
	if value.Kind() != jsontext.KindBeginObject {
		return BadJSON("The request body must be a JSON object.")
	}
	return nil
}

// object is a JSON object that every reader reads alike: no name twice at any depth,
// valid Unicode throughout. Its values are parts of the text that it was read from.
type object map[string]jsontext.Value

// parseObject reads an object strictly. What a homeserver, another client and this
// proxy could understand differently is refused.
func parseObject(raw []byte) (object, error) {
	if err := checkObject(raw); err != nil {
		return nil, err
	}
	if !jsontext.Value(raw).IsValid() {
		return nil, BadJSON("The request body has a member twice or text that is not valid Unicode.")
	}
	members := object{}
	err := eachMember(raw, func(name string, value jsontext.Value) error {
		members[name] = value
		return nil
	})
	if err != nil {
		return nil, NotJSON(nil)
	}
	return members, nil
}

// text gives a string member, and "" when it is missing or something else.
func (o object) text(name string) string {
	var s string
	if v, ok := o[name]; !ok || v.Kind() != jsontext.KindString || json.Unmarshal(v, &s) != nil {
		return ""
	}
	return s
}

// secret gives a string member in a place of its own, which can be overwritten; nil when
// it is missing or something else.
func (o object) secret(name string) secret.Bytes {
	v, ok := o[name]
	if !ok || v.Kind() != jsontext.KindString {
		return nil
	}
	text, err := jsontext.AppendUnquote(make([]byte, 0, len(v)), v)
	if err != nil {
		return nil
	}
	return text
}

// isFalse reports whether a member is the literal false.
func (o object) isFalse(name string) bool {
	v, ok := o[name]
	return ok && v.Kind() == jsontext.KindFalse
}

// isTrue reports whether a member is the literal true.
func (o object) isTrue(name string) bool {
	v, ok := o[name]
	return ok && v.Kind() == jsontext.KindTrue
}

// texts gives the strings of an array member; elements of another kind are left out.
func (o object) texts(name string) []string {
	var out []string
	for _, v := range o.list(name) {
		var s string
		if v.Kind() == jsontext.KindString && json.Unmarshal(v, &s) == nil {
			out = append(out, s)
		}
	}
	return out
}

// list gives the elements of an array member, nil when it is none.
func (o object) list(name string) []jsontext.Value {
	v, ok := o[name]
	if !ok || v.Kind() != jsontext.KindBeginArray {
		return nil
	}
	var out []jsontext.Value
	dec := jsontext.NewDecoder(bytes.NewBuffer(v)) // a buffer is read in place
	if _, err := dec.ReadToken(); err != nil {
		return nil
	}
	for dec.PeekKind() != jsontext.KindEndArray {
		elem, err := dec.ReadValue()
		if err != nil {
			return nil
		}
		end := int(dec.InputOffset())
		out = append(out, v[end-len(elem):end:end])
	}
	return out
}

// members gives an object member, nil when it is none.
func (o object) members(name string) object {
	v, ok := o[name]
	if !ok || v.Kind() != jsontext.KindBeginObject {
		return nil
	}
	members, err := parseObject(v)
	if err != nil {
		return nil
	}
	return members
}

// eachMember calls f for the members of the object raw, in order. value is a part of raw.
func eachMember(raw []byte, f func(name string, value jsontext.Value) error) error {
	dec := jsontext.NewDecoder(bytes.NewBuffer(raw)) // a buffer is read in place
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != jsontext.KindBeginObject {
		return errors.New("not a JSON object")
	}
	for dec.PeekKind() == jsontext.KindString {
		tok, err := dec.ReadToken()
		if err != nil {
			return errors.New("not a member name")
		}
		name := tok.String()
		value, err := dec.ReadValue()
		if err != nil {
			return errors.New("not a member value")
		}
		end := int(dec.InputOffset())
		if err := f(name, raw[end-len(value):end:end]); err != nil {
			return err
		}
	}
	if _, err := dec.ReadToken(); err != nil {
		return errors.New("an object without an end")
	}
	return nil
}

// editObject rewrites the members of the object raw, in order: edit gives the new
// value, or nil to drop the member. Everything it leaves alone stays byte for byte.
func editObject(raw []byte, edit func(name string, value jsontext.Value) (jsontext.Value, error)) ([]byte, error) {
	var out bytes.Buffer
	out.WriteByte('{')
	err := eachMember(raw, func(name string, value jsontext.Value) error {
		changed, err := edit(name, value)
		if err != nil || changed == nil {
			return err
		}
		if out.Len() > 1 {
			out.WriteByte(',')
		}
		quoted, err := jsontext.AppendQuote(nil, name)
		if err != nil {
			return errors.New("not a member name")
		}
		out.Write(quoted)
		out.WriteByte(':')
		out.Write(changed)
		return nil
	})
	if err != nil {
		return nil, err
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}

// answer gives the members of a homeserver's answer, which can be relayed afterwards
// all the same. An answer that is too long or is no plain object gives none.
func answer(resp *http.Response) object {
	raw := peek(resp)
	if raw == nil {
		return object{}
	}
	members, err := parseObject(raw)
	if err != nil {
		return object{}
	}
	return members
}

// peek gives the body of an answer and leaves it in place; nil when it is longer than
// maxAnswer, compressed, or broken.
func peek(resp *http.Response) []byte {
	if enc := resp.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return nil
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	rest := resp.Body
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(raw), rest), rest}
	if err != nil || len(raw) > maxAnswer {
		return nil
	}
	return raw
}

// replaceBody puts another body into an answer that will be relayed.
func replaceBody(resp *http.Response, raw []byte) {
	setBody(resp, bytes.NewReader(raw), int64(len(raw)))
}

// setBody is replaceBody for a body that is not in memory.
func setBody(resp *http.Response, body io.Reader, size int64) {
	resp.Body = struct {
		io.Reader
		io.Closer
	}{body, resp.Body}
	resp.ContentLength = size
	resp.Header.Set("Content-Length", strconv.FormatInt(size, 10))
	for _, name := range []string{"ETag", "Content-MD5", "Digest", "Content-Digest", "Repr-Digest"} {
		resp.Header.Del(name)
	}
}

// writeJSON answers the client with something the proxy says itself.
func writeJSON(x *Exchange, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("marshal the answer: %w", err)
	}
	h := x.Writer.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(raw)))
	if h.Get("Access-Control-Allow-Origin") == "" {
		h.Set("Access-Control-Allow-Origin", "*")
	}
	x.Writer.WriteHeader(http.StatusOK)
	// A client that has gone away is not told so.
	_, _ = x.Writer.Write(raw)
	return nil
}
