package controlroom

import (
	"net/http/httptest"
	"slices"
	"testing"
	"time"
)

// While a large file of keys is fetched it is told how far that is, not more often than a person can
// read.
func TestFetchingIsTold(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	var told []string
	rec := httptest.NewRecorder()
	out := &lateWriter{w: rec, at: now, now: func() time.Time { return now }, tell: func(size string) { told = append(told, size) }}
	if rec.Flushed || out.done != 0 {
		t.Fatal("it has begun")
	}
	for range 10 {
		if _, err := out.Write(make([]byte, 300<<10)); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Second)
	}
	if !slices.Equal(told, []string{"1.2 MB", "2.1 MB", "2.9 MB"}) || rec.Code != 200 || rec.Body.Len() != 3000<<10 {
		t.Errorf("told %q", told)
	}
	for n, want := range map[int64]string{1: "1 kB", 5000: "5 kB", 1 << 20: "1.0 MB"} {
		if got := sizeText(n); got != want {
			t.Errorf("%d bytes are %s", n, got)
		}
	}
}
