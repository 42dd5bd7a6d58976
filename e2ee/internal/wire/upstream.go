package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// UpstreamError is an answer of the homeserver that is not a success, or no answer
// at all (Status 0). It never carries a request, a token or a body.
type UpstreamError struct {
	Op         string
	Status     int
	ErrCode    string
	Text       string
	SoftLogout bool
	RetryAfter time.Duration
	// NotMatrix reports whether the answer is of something that is no homeserver.
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

// Unwrap returns the transport's error.
func (e *UpstreamError) Unwrap() error { return e.Cause }

// AuthNeededError says that the homeserver asks for user-interactive authentication
// that only the client can do; its next call carries it in "auth".
type AuthNeededError struct {
	// Body is the homeserver's 401: flows, params, session.
	Body json.RawMessage
	// Stage is the next stage of the first flow, and URL where the user does it in a
	// browser, on homeservers with OAuth; both may be empty (requirement 12.6).
	Stage string
	URL   string
}

// Error implements error.
func (*AuthNeededError) Error() string {
	return "the homeserver asks for user-interactive authentication"
}

// Status returns the HTTP status of an UpstreamError, 0 when err is none or had no answer.
func Status(err error) int {
	var up *UpstreamError
	if errors.As(err, &up) {
		return up.Status
	}
	return 0
}
