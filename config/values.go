package config

import (
	"encoding/base64"
	"net/url"
	"strconv"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
)

// valueError is the error of a value, with what to do. Its texts never contain the value of
// a secret.
type valueError struct{ what, do string }

func (e *valueError) Error() string { return e.what + "; " + e.do }

// URL is an absolute http or https URL without user, query and fragment.
type URL struct{ u url.URL }

// URL returns a copy that can be changed. Its path does not end in a slash.
func (u URL) URL() *url.URL { c := u.u; return &c }

// IsZero reports whether no URL was set.
func (u URL) IsZero() bool { return u.u.Host == "" }

// String returns the URL as text; empty when there is none.
func (u URL) String() string { return u.u.String() }

// UnmarshalText accepts absolute http and https URLs only. An empty text clears.
func (u *URL) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*u = URL{}
		return nil
	}
	// The text is not repeated in the error: it may contain a password.
	p, err := url.Parse(string(b))
	if err != nil || (p.Scheme != "http" && p.Scheme != "https") || p.Hostname() == "" || p.Opaque != "" {
		return &valueError{"is not an absolute http or https URL", "write it like https://matrix.example.org"}
	}
	if p.User != nil || p.RawQuery != "" || p.ForceQuery || p.Fragment != "" {
		return &valueError{"must not contain a user name, a query or a fragment", "write it like https://matrix.example.org"}
	}
	p.Path = strings.TrimRight(p.Path, "/")
	p.RawPath = strings.TrimRight(p.RawPath, "/")
	u.u = *p
	return nil
}

// Document is the text of a file that a setting names. It is read once, with the settings.
type Document struct{ path, text string }

// IsZero reports whether no file is named.
func (d Document) IsZero() bool { return d.path == "" }

// Path returns the file's path.
func (d Document) Path() string { return d.path }

// String returns the file's path.
func (d Document) String() string { return d.path }

// Text returns what the file said.
func (d Document) Text() []byte { return []byte(d.text) }

// UnmarshalText reads the file with a path. An empty path clears.
func (d *Document) UnmarshalText(path []byte) error {
	*d = Document{}
	if len(path) == 0 {
		return nil
	}
	text, err := readRaw(string(path))
	if err != nil {
		return &valueError{err.Error(), "check the path and who may read it"}
	}
	*d = Document{string(path), string(text)}
	return nil
}

// Size is a number of bytes.
type Size int64

// String returns the size in the largest unit that fits without a remainder.
func (s Size) String() string {
	for _, u := range []struct {
		name string
		size Size
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if s != 0 && s%u.size == 0 {
			return strconv.FormatInt(int64(s/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// UnmarshalText accepts a number of bytes, or one with KiB, MiB or GiB.
func (s *Size) UnmarshalText(b []byte) error {
	text, unit := string(b), int64(1)
	for suffix, size := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if n, ok := strings.CutSuffix(text, suffix); ok {
			text, unit = strings.TrimSpace(n), size
			break
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > (1<<50)/unit {
		return &valueError{strconv.Quote(string(b)) + " is not a size", "write it like 512KiB, 4MiB or 1GiB"}
	}
	*s = Size(n * unit)
	return nil
}

// Date is a point in time, written as a day or with the time of day.
type Date struct{ time.Time }

// String returns the day, or the time when it is not midnight UTC; empty when there is
// none.
func (d Date) String() string {
	switch {
	case d.IsZero():
		return ""
	case d.Equal(d.UTC().Truncate(24 * time.Hour)):
		return d.UTC().Format(time.DateOnly)
	default:
		return d.Format(time.RFC3339)
	}
}

// UnmarshalText accepts 2026-12-01 and 2026-12-01T08:00:00Z. An empty text clears.
func (d *Date) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*d = Date{}
		return nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, string(b)); err == nil {
			d.Time = t
			return nil
		}
	}
	return &valueError{strconv.Quote(string(b)) + " is not a date", "write it like 2026-12-01 or 2026-12-01T08:00:00Z"}
}

// KeySize is the length of a master key in bytes.
const KeySize = 32

// Key is a master key. It prints as a redacted secret.
type Key struct{ secret.Bytes }

// IsZero reports whether no key was set.
func (k Key) IsZero() bool { return len(k.Bytes) == 0 }

// UnmarshalText accepts 32 bytes in base64 or base64url, padded or not, surrounded by white space
// or not. An empty text clears.
func (k *Key) UnmarshalText(b []byte) error {
	text := strings.TrimRight(strings.TrimSpace(string(b)), "=")
	if text == "" {
		*k = Key{}
		return nil
	}
	encoding := base64.RawStdEncoding
	if strings.ContainsAny(text, "-_") {
		encoding = base64.RawURLEncoding
	}
	raw, err := encoding.Strict().DecodeString(text)
	if err != nil || len(raw) != KeySize {
		return &valueError{"is not a key: it must be 32 bytes in base64", "make one with: openssl rand -base64 32"}
	}
	k.Bytes = raw
	return nil
}

// CrossSigningRequired reports whether a device of the user must be signed by its
// owner's identity before it may send encrypted events.
func (c *Config) CrossSigningRequired(user id.UserID) bool {
	if own := c.Accounts[user].RequireCrossSigning; own != nil {
		return own.Required()
	}
	return c.Account.RequireCrossSigning.Required()
}

// NoticesHidden reports whether notices are kept out of what the user's clients show.
func (c *Config) NoticesHidden(user id.UserID) bool {
	if own := c.Accounts[user].Notices; own != nil {
		return *own == SwitchOff
	}
	return c.Clients.HideWarnings
}

// LinksShown reports whether the user's clients are shown links to encrypted files.
func (c *Config) LinksShown(user id.UserID) bool {
	if own := c.Accounts[user].MediaLinks; own != nil {
		return *own == SwitchOn
	}
	return c.Media.Links
}

// At returns the mode in force at a time: warn becomes enforce at the date that was set.
func (r Rollout) At(now time.Time) Mode {
	if r.Mode == Warn && !r.EnforceFrom.IsZero() && !now.Before(r.EnforceFrom.Time) {
		return Enforce
	}
	return r.Mode
}

// On reports whether clients are to use TLS.
func (t TLS) On() bool { return t.CertFile != "" || t.KeyFile != "" }
