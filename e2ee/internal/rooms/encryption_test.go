package rooms

import (
	"encoding/json"
	"testing"
	"time"
)

// Requirements 9.1, 9.2, 9.7 and attack A21: the limits of a room's encryption event
// are clamped, and what is no number gets the default.
func TestRotationLimits(t *testing.T) {
	t.Parallel()
	week := 7 * 24 * time.Hour
	for _, tc := range []struct {
		content  string
		period   time.Duration
		messages int64
	}{
		{`{}`, week, 100},
		{`{"rotation_period_ms":604800000,"rotation_period_msgs":100}`, week, 100},
		{`{"rotation_period_ms":7200000,"rotation_period_msgs":5}`, 2 * time.Hour, 5},
		{`{"rotation_period_ms":0,"rotation_period_msgs":0}`, time.Hour, 1},
		{`{"rotation_period_ms":-1,"rotation_period_msgs":-1}`, time.Hour, 1},
		{`{"rotation_period_ms":9007199254740992,"rotation_period_msgs":9007199254740992}`, 365 * 24 * time.Hour, 10000},
		{`{"rotation_period_ms":"1","rotation_period_msgs":"1"}`, week, 100},
		{`{"rotation_period_ms":1e400,"rotation_period_msgs":1e400}`, week, 100},
		{`{"rotation_period_ms":null,"rotation_period_msgs":[]}`, time.Hour, 100},
		{`{"rotation_period_ms":1,"rotation_period_ms":2}`, week, 100},
	} {
		_, period, messages := parseEncryption(json.RawMessage(tc.content))
		if period != tc.period || messages != tc.messages {
			t.Errorf("%s: %v and %d messages, want %v and %d", tc.content, period, messages, tc.period, tc.messages)
		}
	}
}
