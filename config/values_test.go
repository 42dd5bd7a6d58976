package config

import (
	"math"
	"reflect"
	"testing"
	"time"
)

// Every word of every enumeration is read as its constant and written back as the same
// word; nothing else is accepted, and an invalid constant has no word.
func TestEnumerations(t *testing.T) {
	t.Parallel()
	for _, typ := range []reflect.Type{
		reflect.TypeFor[Bootstrap](), reflect.TypeFor[LogLevel](), reflect.TypeFor[LogFormat](), reflect.TypeFor[Requirement](),
		reflect.TypeFor[Acknowledge](), reflect.TypeFor[SecretRequests](), reflect.TypeFor[AutoVerify](), reflect.TypeFor[Mode](), reflect.TypeFor[PlainInEncrypted](), reflect.TypeFor[Unproven](), reflect.TypeFor[Withheld](),
	} {
		v := reflect.New(typ).Elem()
		e, isWorded := v.Interface().(wordEnum)
		if !isWorded {
			t.Fatalf("%s has no words", typ)
		}
		words := e.words()
		for i, want := range words {
			if err := setScalar(v, want); err != nil || int(v.Int()) != i || showValue(v) != want {
				t.Errorf("%s: %q is read as %d (%s), error %v", typ, want, v.Int(), showValue(v), err)
			}
		}
		for _, bad := range []string{"", "ENFORCE", "0", " " + words[0]} {
			if err := setScalar(v, bad); err == nil {
				t.Errorf("%s accepts %q", typ, bad)
			}
		}
		v.SetInt(99)
		if got := showValue(v); got != "invalid(99)" {
			t.Errorf("%s(99) is %q", typ, got)
		}
	}
}

func TestSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Size{"0": 0, "17": 17, "512KiB": 512 << 10, "4MiB": 4 << 20, "1 GiB": 1 << 30} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("%q is %d, error %v", text, s, err)
		}
		var again Size
		if err := again.UnmarshalText([]byte(s.String())); err != nil || again != s {
			t.Errorf("%d is written as %q, which is read as %d", s, s, again)
		}
	}
	for _, bad := range []string{"", "-1", "1.5MiB", "4MB", "MiB", "99999999GiB"} {
		var s Size
		if err := s.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q is read as %d", bad, s)
		}
	}
}

func TestURL(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"https://h.example": "https://h.example", "http://[::1]:8008/": "http://[::1]:8008", "https://h.example/a//": "https://h.example/a", "": "",
	} {
		var u URL
		if err := u.UnmarshalText([]byte(text)); err != nil || u.String() != want || u.IsZero() != (want == "") {
			t.Errorf("%q is %q, error %v", text, u, err)
		}
	}
	for _, bad := range []string{"h.example", "//h.example", "ftp://h", "https:h", "https://", "https://:80", "https://u@h", "https://h?q", "https://h/#f", "https://h/%zz"} {
		var u URL
		if err := u.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q is read as %q", bad, u)
		}
	}
	var u URL
	u.URL().Host = "changed"
	if !u.IsZero() {
		t.Error("URL gives its own value away, not a copy")
	}
}

func TestDate(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{"2026-12-01": 1796083200, "2026-12-01T08:00:00Z": 1796112000, "2026-12-01T08:00:00+08:00": 1796083200} {
		var d Date
		if err := d.UnmarshalText([]byte(text)); err != nil || d.Unix() != want {
			t.Errorf("%q is %d, error %v", text, d.Unix(), err)
		}
	}
	for _, bad := range []string{"tomorrow", "01.12.2026", "2026-13-01"} {
		var d Date
		if err := d.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q is read as %s", bad, d)
		}
	}
}

func TestShortDuration(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0s", time.Second: "1s", 90 * time.Second: "1m30s", 10 * time.Minute: "10m", time.Hour: "1h", 61 * time.Minute: "1h1m", 10 * time.Hour: "10h",
	} {
		got := shortDuration(d)
		if back, err := time.ParseDuration(got); got != want || err != nil || back != d {
			t.Errorf("%d is %q, want %q", d, got, want)
		}
	}
	if d, err := time.ParseDuration(shortDuration(math.MaxInt64)); err != nil || d != math.MaxInt64 {
		t.Errorf("the longest duration is read back as %d, error %v", d, err)
	}
}
