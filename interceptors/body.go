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

	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/strictjson"
)

// maxAnswer is the largest answer of the homeserver that a handler parses, in bytes.
const maxAnswer = 256 << 10

// lenient accepts JSON as loosely as a homeserver might. It is used only to tell whether
// something is JSON at all, never what it says.
var lenient = json.JoinOptions(
	jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

// MaxValues is the largest number of JSON values in a request body that is parsed. An event
// of 64 KiB, the largest there is, has no room for more. Without the limit a body of
// nothing but short values would take dozens of times its size when it is decoded.
const MaxValues = 32 << 10

// DecodingCost returns how much memory a request body of the given size takes at most, from
// its first byte to the answer: the text, its decoded form, and up to [MaxValues] values.
func DecodingCost(size int64) int64 { return 4*size + 160*min(size/2, MaxValues) }

// readBody reads the whole request body, which the route has limited.
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
		return nil, apierr.TooLarge(tooLarge.Limit)
	}
	return nil, fmt.Errorf("read the request body: %w", err)
}

// maxSaidLength is the largest Content-Length for which memory is reserved before any of
// the body has come, in bytes.
const maxSaidLength = 1 << 20

// checkValues refuses a body with too many values, before it is decoded. It counts what
// begins a value in a text that may not even be JSON.
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
		return apierr.NewError(http.StatusRequestEntityTooLarge, apierr.CodeTooLarge,
			"The request body has more values in it than any event can have.")
	}
	return nil
}

// putBack sets raw as the request body, so that it can be forwarded byte for byte.
func putBack(x *Exchange, raw []byte) {
	x.Request.Body = io.NopCloser(bytes.NewReader(raw))
	x.Request.ContentLength = int64(len(raw))
}

// putBackOnce is like putBack for a body that holds a secret: the returned body overwrites
// it when it is closed, by whoever sends it.
func putBackOnce(x *Exchange, raw []byte) io.ReadCloser {
	body := &onceBody{left: raw, all: raw}
	x.Request.Body, x.Request.ContentLength = body, int64(len(raw))
	return body
}

// onceBody may be closed while it is read, as an http.RoundTripper may do.
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

// readObject reads the request body, which must be one JSON object, and returns it byte for
// byte. It is as strict as the homeserver, not more.
func readObject(x *Exchange) ([]byte, error) {
	raw, err := readBody(x)
	if err != nil {
		return nil, err
	}
	return raw, checkObject(raw)
}

// readOptionalObject is like readObject, where the body may also be blank.
func readOptionalObject(x *Exchange) ([]byte, error) {
	raw, err := readBody(x)
	if err != nil || isBlank(raw) {
		return raw, err
	}
	return raw, checkObject(raw)
}

func isBlank(raw []byte) bool { return len(bytes.TrimSpace(raw)) == 0 }

// checkObject refuses what is not JSON and what is not an object. Its errors reveal nothing
// of the content.
func checkObject(raw []byte) error {
	value := jsontext.Value(raw)
	if !value.IsValid(lenient) {
		return apierr.NotJSON(nil)
	}
	if value.Kind() != jsontext.KindBeginObject {
		return apierr.BadJSON("The request body must be a JSON object.")
	}
	return nil
}

// parseObject parses an object strictly. What a homeserver, another client and this proxy
// could understand differently is refused.
func parseObject(raw []byte) (strictjson.Object, error) {
	if err := checkObject(raw); err != nil {
		return nil, err
	}
	members, err := strictjson.Parse(raw)
	if err != nil {
		return nil, apierr.BadJSON("The request body has a member twice or text that is not valid Unicode.")
	}
	return members, nil
}

// answerObject returns the members of a homeserver's answer, which can still be relayed
// afterwards; nil for an answer that is too long or no plain object.
func answerObject(resp *http.Response) strictjson.Object {
	raw := peek(resp)
	if raw == nil {
		return strictjson.Object{}
	}
	members, err := parseObject(raw)
	if err != nil {
		return strictjson.Object{}
	}
	return members
}

// peek returns the body of an answer and leaves it in place; nil when it is longer than
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

// setBody is like replaceBody, for a body that is not in memory.
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

// writeJSON answers the client with JSON of the proxy's own.
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
	// An error here means that the client has gone away.
	_, _ = x.Writer.Write(raw)
	return nil
}
