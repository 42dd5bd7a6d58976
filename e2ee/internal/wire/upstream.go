package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// UpstreamError is an error response of the homeserver, or no response at all (Status 0).
// It never contains a request, a token or a body.
type UpstreamError struct {
	Op         string
	Status     int
	ErrCode    string
	SoftLogout bool
	RetryAfter time.Duration
	// NotMatrix reports whether the response came from a server that is no homeserver.
	NotMatrix bool
	// UIA is set when the homeserver asks for user-interactive authentication.
	UIA   *Challenge
	Cause error // set when there was no answer, or none that could be read
}

// Error implements error.
func (e *UpstreamError) Error() string {
	if e.Status == 0 {
		return fmt.Sprintf("%s: homeserver did not answer: %v", e.Op, e.Cause)
	}
	if e.Cause != nil {
		return fmt.Sprintf("%s: homeserver answered, but: %v", e.Op, e.Cause)
	}
	if e.NotMatrix {
		return fmt.Sprintf("%s: what answered with %d is no Matrix homeserver", e.Op, e.Status)
	}
	return fmt.Sprintf("%s: homeserver answered %d %s", e.Op, e.Status, e.ErrCode)
}

// Unwrap returns Cause.
func (e *UpstreamError) Unwrap() error { return e.Cause }

// AuthNeededError means that the homeserver asks for user-interactive authentication that
// only the client can do; its next call has it in "auth".
type AuthNeededError struct {
	// Body is the homeserver's 401: flows, params, session.
	Body json.RawMessage
	// Stage is the next stage of the first flow, and URL the page where the user does it,
	// on homeservers with OAuth; both may be empty (requirement 12.6).
	Stage string
	URL   string
}

// Error implements error.
func (*AuthNeededError) Error() string {
	return "the homeserver asks for user-interactive authentication"
}

// Status returns the HTTP status of an UpstreamError, 0 for other errors and when there was
// no response.
func Status(err error) int {
	var up *UpstreamError
	if errors.As(err, &up) {
		return up.Status
	}
	return 0
}

// Unrecognized reports whether the homeserver does not know the endpoint that was called.
func Unrecognized(err error) bool {
	var up *UpstreamError
	return errors.As(err, &up) && up.ErrCode == "M_UNRECOGNIZED" && (up.Status == http.StatusNotFound || up.Status == http.StatusMethodNotAllowed || up.Status == http.StatusBadRequest)
}
