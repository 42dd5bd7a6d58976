package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"testing"

	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testproxy"
)

// bigSync builds a sync response of about so many bytes, all of it events that need
// nothing done.
func bigSync(size int) []byte {
	var b bytes.Buffer
	b.WriteString(`{"next_batch":"s1000000","rooms":{"join":{`)
	for room := 0; b.Len() < size; room++ {
		if room > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"!big%d:liar.test":{"timeline":{"limited":false,"prev_batch":"s1","events":[`, room)
		for event := range 100 {
			if event > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, `{"type":"m.room.message","event_id":"$big%d-%d","sender":"@alice:liar.test","origin_server_ts":1,`+
				`"content":{"msgtype":"m.text","body":"%0512d"},"unsigned":{"age":1}}`, room, event, event)
		}
		b.WriteString(`]}}`)
	}
	b.WriteString(`}}}`)
	return b.Bytes()
}

// A /sync of 10 MB streams through, complete, and the proxy's heap does not grow with it:
// it stays within what a /sync of 1 MB took.
func TestBigSyncStreams(t *testing.T) {
	s := liar.New(t)
	b := s.Login("bob", "BOB")
	proxy := testproxy.Start(t, s.URL, testproxy.Options{})
	bob := newCurl(t, proxy.URL, tesths.Account{UserID: b.UserID, DeviceID: b.DeviceID, AccessToken: b.Token})
	bob.sync(0) // the device is set up

	const small, big = 1 << 20, 10 << 20
	read := func(size int) {
		t.Helper()
		body := bigSync(size)
		// The marker is in the client's own query, so that the proxy's own syncs get nothing.
		defer s.Intercept(func(r *liar.Request) bool {
			return liar.Is("GET", "/sync$")(r) && bytes.Contains([]byte(r.Query), []byte("since=s999"))
		}, func(*liar.Request, func() liar.Reply) liar.Reply {
			return liar.Reply{Status: http.StatusOK, Body: body}
		})()
		got := streamSync(t, proxy.URL, b.Token)
		if got < int64(len(body)) {
			t.Errorf("of %d bytes came %d", len(body), got)
		}
	}
	read(small)
	before := heapFromSystem(t, proxy)
	for range 5 {
		read(big)
	}
	after := heapFromSystem(t, proxy)
	t.Logf("heap from the system: %.1f MB after syncs of %d MB, %.1f MB after syncs of %d MB",
		before/1e6, small>>20, after/1e6, big>>20)
	if limit := 6e6; after-before > limit {
		t.Errorf("the heap grew by %.1f MB with a sync of %d MB", (after-before)/1e6, big>>20)
	}
}

// streamSync reads a sync without keeping it and returns its size.
func streamSync(t *testing.T, base, token string) int64 {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/_matrix/client/v3/sync?since=s999&timeout=0", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("sync answers %s", resp.Status)
	}
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// heapFromSystem returns how much memory the proxy's heap has taken so far; it never
// shrinks.
func heapFromSystem(t *testing.T, proxy *testproxy.Proxy) float64 {
	t.Helper()
	page, err := proxy.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^go_memstats_heap_sys_bytes (\S+)$`).FindStringSubmatch(page)
	if m == nil {
		t.Fatal("no go_memstats_heap_sys_bytes")
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
