package apierr

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"maunium.net/go/mautrix/id"
)

// Error codes of the Client-Server API that this proxy answers with, and its own.
const (
	CodeBadJSON       = "M_BAD_JSON"
	CodeForbidden     = "M_FORBIDDEN"
	CodeInvalidParam  = "M_INVALID_PARAM"
	CodeLimitExceeded = "M_LIMIT_EXCEEDED"
	CodeMissingParam  = "M_MISSING_PARAM"
	CodeMissingToken  = "M_MISSING_TOKEN"
	CodeNotFound      = "M_NOT_FOUND"
	CodeNotJSON       = "M_NOT_JSON"
	CodeTooLarge      = "M_TOO_LARGE"
	CodeUnknown       = "M_UNKNOWN"
	CodeUnknownToken  = "M_UNKNOWN_TOKEN"
	CodeUnrecognized  = "M_UNRECOGNIZED"
	CodeUserLocked    = "M_USER_LOCKED"

	CodeClearText       = "DEV.E2EE_PROXY.CLEAR_TEXT"
	CodeKeysLost        = "DEV.E2EE_PROXY.KEYS_LOST"
	CodeCannotEncrypt   = "DEV.E2EE_PROXY.CANNOT_ENCRYPT"
	CodeDeviceNotSigned = "DEV.E2EE_PROXY.DEVICE_NOT_SIGNED"
	CodeIdentityChanged = "DEV.E2EE_PROXY.IDENTITY_CHANGED"
	CodeDeniedByRule    = "DEV.E2EE_PROXY.DENIED_BY_RULE"
)

// Error is returned by a handler when the client must be told more than "internal error".
// Everything in it but Err is shown to the client, so it holds no secret, no clear text and
// no text of somebody else's error.
type Error struct {
	// Status is the HTTP status, 400 to 599.
	Status int
	// ErrCode is the Matrix error code.
	ErrCode string
	// Text says what happened, for a person.
	Text string
	// Hint says what to do about it. It is added to Text as a further sentence.
	Hint string
	// Fields are further members of the JSON body, such as "users" or "soft_logout".
	Fields map[string]any
	// Header are further response headers, such as Retry-After.
	Header http.Header
	// Err is the cause. It goes to the log, never to the client.
	Err error
}

// Error returns the text for logs: code, public text and cause.
func (e *Error) Error() string {
	s := fmt.Sprintf("%d %s: %s", e.Status, e.ErrCode, e.Text)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Public returns the text for a person: what happened, then what to do.
func (e *Error) Public() string {
	if e.Hint == "" {
		return e.Text
	}
	return e.Text + " " + e.Hint
}

// Because returns a copy with the cause, for the log.
func (e *Error) Because(err error) *Error {
	c := *e
	c.Err = err
	return &c
}

// WithHint returns a copy that says what to do.
func (e *Error) WithHint(hint string) *Error {
	c := *e
	c.Hint = hint
	return &c
}

// NewError makes an error with a public text.
func NewError(status int, code, text string) *Error {
	return &Error{Status: status, ErrCode: code, Text: text}
}

// NotJSON returns the error of a body that is not JSON at all (400 M_NOT_JSON). err may be
// nil.
func NotJSON(err error) *Error {
	return &Error{Status: http.StatusBadRequest, ErrCode: CodeNotJSON, Text: "The request body is not valid JSON.", Err: err}
}

// BadJSON returns the error of a body that is JSON but not what the endpoint takes (400
// M_BAD_JSON). what is a public text, such as "The content of an event must be an object."
func BadJSON(what string) *Error { return NewError(http.StatusBadRequest, CodeBadJSON, what) }

// TooLarge returns the error of a body over the limit of its route, in bytes (413
// M_TOO_LARGE).
func TooLarge(limit int64) *Error {
	return NewError(http.StatusRequestEntityTooLarge, CodeTooLarge,
		"The request body is larger than the "+strconv.FormatInt(limit, 10)+" bytes that are allowed here.")
}

// Unrecognized refuses a path or method that must not be passed on (400 M_UNRECOGNIZED).
func Unrecognized(text string) *Error {
	return NewError(http.StatusBadRequest, CodeUnrecognized, text)
}

// NotImplemented returns the error of an endpoint that does not exist here, with which
// clients fall back to something else (404 M_UNRECOGNIZED).
func NotImplemented(text string) *Error {
	return NewError(http.StatusNotFound, CodeUnrecognized, text)
}

// InvalidParam refuses a parameter (400 M_INVALID_PARAM).
func InvalidParam(text string) *Error {
	return NewError(http.StatusBadRequest, CodeInvalidParam, text)
}

// MissingParam asks for a parameter (400 M_MISSING_PARAM).
func MissingParam(text string) *Error {
	return NewError(http.StatusBadRequest, CodeMissingParam, text)
}

// NotFound returns the error of something that does not exist (404 M_NOT_FOUND).
func NotFound(text string) *Error { return NewError(http.StatusNotFound, CodeNotFound, text) }

// Forbidden refuses what the user may not do (403 M_FORBIDDEN).
func Forbidden(text string) *Error { return NewError(http.StatusForbidden, CodeForbidden, text) }

// MissingToken asks for an access token (401 M_MISSING_TOKEN).
func MissingToken() *Error {
	return NewError(http.StatusUnauthorized, CodeMissingToken, "An access token is required.")
}

// UnknownToken refuses an access token (401 M_UNKNOWN_TOKEN). softLogout tells the
// client that it may log in again as the same device.
func UnknownToken(softLogout bool) *Error {
	e := NewError(http.StatusUnauthorized, CodeUnknownToken, "The access token is not valid.")
	if softLogout {
		e.Fields = map[string]any{"soft_logout": true}
	}
	return e
}

// LimitExceeded asks the client to come again later (429 M_LIMIT_EXCEEDED), because of a
// limit of the proxy's own.
func LimitExceeded(after time.Duration) *Error {
	return limit("The proxy takes no more requests of this kind at the moment.", after)
}

// HomeserverLimit is like LimitExceeded, for a limit of the homeserver, which says how long
// to wait; zero when it does not.
func HomeserverLimit(after time.Duration) *Error {
	if after <= 0 {
		after = time.Second
	}
	return limit("The homeserver limits how often this account may ask for something, and refuses for now.", after)
}

func limit(text string, after time.Duration) *Error {
	e := NewError(http.StatusTooManyRequests, CodeLimitExceeded, text)
	e.Hint = "Try again later: retry_after_ms and the header Retry-After say when."
	e.Fields = map[string]any{"retry_after_ms": after.Milliseconds()}
	e.Header = RetryAfter(after)
	return e
}

// CannotEncrypt refuses a send because it is not known whether, or how, to encrypt.
// unsupported is for a room with an unknown algorithm (403); otherwise the client may try
// again (503). err may be nil.
func CannotEncrypt(unsupported bool, err error) *Error {
	if unsupported {
		return &Error{
			Status: http.StatusForbidden, ErrCode: CodeCannotEncrypt, Err: err,
			Text: "This room is encrypted in a way that this proxy does not know, so the message was not sent.",
			Hint: "Use a client that supports the room's encryption.",
		}
	}
	return &Error{
		Status: http.StatusServiceUnavailable, ErrCode: CodeCannotEncrypt, Err: err,
		Text:   "It could not be determined whether, or for whom, this message must be encrypted, so it was not sent.",
		Hint:   "Try again in a moment.",
		Header: RetryAfter(5 * time.Second),
	}
}

// DeviceNotSigned refuses a send because the owner has not confirmed the device (403).
func DeviceNotSigned(hint string) *Error {
	return &Error{
		Status: http.StatusForbidden, ErrCode: CodeDeviceNotSigned, Hint: hint,
		Text: "This device has not been confirmed by its owner, so others would not be shown what it sends.",
	}
}

// IdentityChanged refuses a send because the digital identity of users was reset and nobody
// has acknowledged it (403).
func IdentityChanged(users []id.UserID, text string) *Error {
	return &Error{
		Status: http.StatusForbidden, ErrCode: CodeIdentityChanged, Text: text,
		Fields: map[string]any{"users": users},
	}
}

// Unreachable returns the error of a homeserver that did not take the request (502).
func Unreachable(err error) *Error {
	return &Error{
		Status: http.StatusBadGateway, ErrCode: CodeUnknown, Err: err,
		Text: "The homeserver cannot be reached.", Hint: "Try again in a moment.",
		Header: RetryAfter(5 * time.Second),
	}
}

// HomeserverFailed returns the error of a homeserver that answered with an error which is
// not the client's (502). asked is a public phrase such as "read the room's members", which
// may be empty.
func HomeserverFailed(status int, asked string, err error) *Error {
	text := "The homeserver answered with an error (status " + strconv.Itoa(status) + ")"
	if status < http.StatusBadRequest {
		text = "The homeserver gave an answer that makes no sense (status " + strconv.Itoa(status) + ")"
	}
	if asked != "" {
		text += " when the proxy asked it to " + asked
	}
	return &Error{
		Status: http.StatusBadGateway, ErrCode: CodeUnknown, Err: err,
		Text: text + ".", Hint: "Try again in a moment.", Header: RetryAfter(5 * time.Second),
	}
}

// NotHomeserver returns the error of an address at which no homeserver answers (502).
func NotHomeserver(err error) *Error {
	return &Error{
		Status: http.StatusBadGateway, ErrCode: CodeUnknown, Err: err,
		Text:   "What answers at the address that this proxy has for the homeserver is no Matrix homeserver.",
		Hint:   "Whoever runs the proxy must correct the setting homeserver.",
		Header: RetryAfter(time.Minute),
	}
}

// TimedOut returns the error of a homeserver that did not answer in time (504).
func TimedOut(err error) *Error {
	return &Error{
		Status: http.StatusGatewayTimeout, ErrCode: CodeUnknown, Err: err,
		Text: "The homeserver did not answer in time.", Hint: "Try again in a moment.",
		Header: RetryAfter(5 * time.Second),
	}
}

// Unread returns the error of an answer that could not be read to its end.
func Unread(err error) *Error {
	if errors.Is(err, context.DeadlineExceeded) {
		return TimedOut(err)
	}
	return Unreachable(err)
}

// RetryAfter returns the header that asks a client to wait, in whole seconds.
func RetryAfter(d time.Duration) http.Header {
	seconds := max(1, int64((d+time.Second-1)/time.Second))
	return http.Header{"Retry-After": {strconv.FormatInt(seconds, 10)}}
}

// maxErrorBody is how much of a homeserver's error is read, in bytes.
const maxErrorBody = 64 << 10

// FromResponse turns an error response of the homeserver into one for the client, with
// its status, code, text, fields and Retry-After. What is not a Matrix error becomes one that
// says nothing of its content: a 429, which something in front of the homeserver may have
// answered, stays one, and everything else is a 502. It reads the body, and does not close it.
func FromResponse(resp *http.Response) *Error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if err != nil {
		return Unread(fmt.Errorf("read the homeserver's error: %w", err))
	}
	var fields map[string]any
	if err := json.Unmarshal(body, &fields); err != nil {
		return notJSON(resp, errors.New("no JSON body"))
	}
	code, _ := fields["errcode"].(string)
	if code == "" || resp.StatusCode < 400 || resp.StatusCode > 599 {
		return notMatrixError(resp, errors.New("no error code"))
	}
	text, _ := fields["error"].(string)
	delete(fields, "errcode")
	delete(fields, "error")
	e := &Error{Status: resp.StatusCode, ErrCode: code, Text: text, Fields: fields}
	if after := resp.Header.Get("Retry-After"); after != "" {
		e.Header = http.Header{"Retry-After": {after}}
	}
	return e
}

// notMatrixError is like FromResponse, for an answer that is no Matrix error.
func notMatrixError(resp *http.Response, err error) *Error {
	err = fmt.Errorf("status %d: %w", resp.StatusCode, err)
	if resp.StatusCode != http.StatusTooManyRequests {
		return HomeserverFailed(resp.StatusCode, "", err)
	}
	e := HomeserverLimit(0).Because(err)
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
		e = HomeserverLimit(time.Duration(seconds) * time.Second).Because(e.Err)
	}
	return e
}

// notFromHomeserver reports whether an answer with this status, which is not JSON, comes from
// something that is no homeserver. Other statuses may come from a reverse proxy in front of
// one.
func notFromHomeserver(status int) bool {
	return status < http.StatusBadRequest || status == http.StatusNotFound || status == http.StatusMethodNotAllowed
}

// notJSON returns the error of an answer that is not JSON.
func notJSON(resp *http.Response, err error) *Error {
	if notFromHomeserver(resp.StatusCode) {
		return NotHomeserver(fmt.Errorf("status %d: %w", resp.StatusCode, err))
	}
	return notMatrixError(resp, err)
}

// FromOther is like FromResponse for a status without a meaning of its own: an error of a
// homeserver becomes a 502 that reveals nothing of it but what was asked, a public phrase
// as for HomeserverFailed. It reads the body, and does not close it.
func FromOther(resp *http.Response, asked string) *Error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	var fields map[string]any
	if err == nil && json.Unmarshal(body, &fields) != nil && notFromHomeserver(resp.StatusCode) {
		return NotHomeserver(fmt.Errorf("status %d without a JSON body", resp.StatusCode))
	}
	return HomeserverFailed(resp.StatusCode, asked, nil)
}

// HasCode reports whether err is, or wraps, an Error with this Matrix error code.
func HasCode(err error, code string) bool {
	var e *Error
	return errors.As(err, &e) && e.ErrCode == code
}
