package e2ee

import (
	"e2ee-proxy/trustcache"
)

// Undecryptable is what a client is shown of an event that cannot be decrypted. In every
// case it gets the clear event when the key arrives.
type Undecryptable int

const (
	// UndecryptableHold shows nothing at first, because many keys arrive a moment after
	// their event. After that, or at once if the key will not come, it shows a placeholder.
	// Some clients answer every encrypted event that they see.
	UndecryptableHold Undecryptable = iota
	// UndecryptablePlaceholder shows a placeholder at once.
	UndecryptablePlaceholder
	// UndecryptableEvent shows the event as it came.
	UndecryptableEvent
)

// unreadable returns what a client is shown of an event that cannot be decrypted.
func (d *Device) unreadable(job *eventJob, v trustcache.Verdict) Opened {
	if d.eng.opts.Undecryptable == UndecryptableEvent {
		return job.asCame(v)
	}
	out := job.placeholder(v, unreadableText(v))
	out.Withheld = true
	return out
}

// unreadableText returns the text of that placeholder.
func unreadableText(v trustcache.Verdict) string {
	if v.Code == trustcache.CodeMissingRoomKey {
		return "Waiting for a message that cannot be read yet. It is shown when it can be."
	}
	return v.Message
}
