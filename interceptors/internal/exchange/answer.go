package exchange

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"

	"e2ee-proxy/internal/strictjson"
)

// maxAnswer is the largest answer of the homeserver that a handler parses, in bytes.
const maxAnswer = 256 << 10

// AnswerObject returns the members of a homeserver's answer, which can still be relayed
// afterwards; nil for an answer that is too long or no plain object.
func AnswerObject(resp *http.Response) strictjson.Object {
	raw := Peek(resp)
	if raw == nil {
		return strictjson.Object{}
	}
	members, err := ParseObject(raw)
	if err != nil {
		return strictjson.Object{}
	}
	return members
}

// Peek returns the body of an answer and leaves it in place; nil when it is longer than
// maxAnswer, compressed, or broken.
func Peek(resp *http.Response) []byte { return PeekUpTo(resp, maxAnswer) }

// PeekUpTo is like [Peek], for a body of at most so many bytes.
func PeekUpTo(resp *http.Response, most int64) []byte {
	if enc := resp.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return nil
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	rest := resp.Body
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(raw), rest), rest}
	if err != nil || int64(len(raw)) > most {
		return nil
	}
	return raw
}

// ReplaceBody puts another body into an answer that will be relayed.
func ReplaceBody(resp *http.Response, raw []byte) {
	SetBody(resp, bytes.NewReader(raw), int64(len(raw)))
}

// SetBody is like [ReplaceBody], for a body that is not in memory.
func SetBody(resp *http.Response, body io.Reader, size int64) {
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

// WriteJSON answers the client with JSON of the proxy's own.
func (x *Exchange) WriteJSON(v any) error {
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

// RelayAndClose answers the client with a response of the homeserver, and closes its body.
func (x *Exchange) RelayAndClose(resp *http.Response) error {
	defer resp.Body.Close() //nolint:errcheck // Relay reads it to its end or fails
	return x.Upstream.Relay(x, resp)
}
