package exchange

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/strictjson"
)

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

// ReadBody reads the whole request body, which the route has limited. It has no more values in
// it than may be decoded.
func (x *Exchange) ReadBody() ([]byte, error) {
	raw, err := x.ReadWhole()
	if err != nil {
		return nil, err
	}
	return raw, checkValues(raw)
}

// ReadWhole is like [Exchange.ReadBody], for a body that is not decoded.
func (x *Exchange) ReadWhole() ([]byte, error) {
	var in bytes.Buffer
	if n := x.Request.ContentLength; n > 0 && n <= maxSaidLength {
		in.Grow(int(n) + bytes.MinRead) // so that it is not copied while it grows
	}
	_, err := in.ReadFrom(x.Request.Body)
	if err == nil {
		return in.Bytes(), nil
	}
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, apierr.TooLarge(tooLarge.Limit)
	}
	return nil, fmt.Errorf("read the request body: %w", err)
}

// maxPeek is how much of a body is looked at that streams through, in bytes.
const maxPeek = 1 << 20

// PeekBody reads the request body. One that is longer than it may be for that stays in place,
// and whole is false.
func (x *Exchange) PeekBody() (raw []byte, whole bool, err error) {
	rest := x.Request.Body
	raw, err = io.ReadAll(io.LimitReader(rest, maxPeek+1))
	if err != nil {
		return nil, false, fmt.Errorf("read the request body: %w", err)
	}
	if len(raw) <= maxPeek {
		return raw, true, nil
	}
	x.Request.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(raw), rest), rest}
	return nil, false, nil
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

// PutBack sets raw as the request body, so that it can be forwarded byte for byte.
func (x *Exchange) PutBack(raw []byte) {
	x.Request.Body = io.NopCloser(bytes.NewReader(raw))
	x.Request.ContentLength = int64(len(raw))
}

// ReadObject reads the request body, which must be one JSON object, and returns it byte for
// byte. It is as strict as the homeserver, not more.
func (x *Exchange) ReadObject() ([]byte, error) {
	raw, err := x.ReadBody()
	if err != nil {
		return nil, err
	}
	return raw, CheckObject(raw)
}

// ReadOptionalObject is like [Exchange.ReadObject], where the body may also be blank.
func (x *Exchange) ReadOptionalObject() ([]byte, error) {
	raw, err := x.ReadBody()
	if err != nil || IsBlank(raw) {
		return raw, err
	}
	return raw, CheckObject(raw)
}

// ReadObjectOrNull is like [Exchange.ReadOptionalObject], and returns an empty object for null.
func (x *Exchange) ReadObjectOrNull() ([]byte, error) {
	raw, err := x.ReadBody()
	switch {
	case err != nil || IsBlank(raw):
		return raw, err
	case string(bytes.TrimSpace(raw)) == "null":
		return []byte("{}"), nil
	}
	return raw, CheckObject(raw)
}

// IsBlank reports whether a body is empty but for white space.
func IsBlank(raw []byte) bool { return len(bytes.TrimSpace(raw)) == 0 }

// CheckObject refuses what is not JSON and what is not an object. Its errors reveal nothing
// of the content.
func CheckObject(raw []byte) error {
	value := jsontext.Value(raw)
	if !value.IsValid(lenient) {
		return apierr.NotJSON(nil)
	}
	if value.Kind() != jsontext.KindBeginObject {
		return apierr.BadJSON("The request body must be a JSON object.")
	}
	return nil
}

// ParseObject parses an object strictly. What a homeserver, another client and this proxy
// could understand differently is refused.
func ParseObject(raw []byte) (strictjson.Object, error) {
	if err := CheckObject(raw); err != nil {
		return nil, err
	}
	members, err := strictjson.Parse(raw)
	if err != nil {
		return nil, apierr.BadJSON("The request body has a member twice or text that is not valid Unicode.")
	}
	return members, nil
}
