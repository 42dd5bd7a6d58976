package endtoend_test

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/internal/endtoend"
)

func TestRemoveDropsWhatTheConnectionNames(t *testing.T) {
	t.Parallel()
	h := http.Header{
		"Connection": {"close, X-Trace", "authorization"}, "X-Trace": {"1"}, "Authorization": {"Bearer x"},
		"Keep-Alive": {"5"}, "Te": {"trailers"}, "Trailer": {"X"}, "Transfer-Encoding": {"chunked"},
		"Upgrade": {"h2c"}, "Proxy-Authorization": {"Basic x"}, "Proxy-Connection": {"close"},
		"Content-Type": {"application/json"}, "Set-Cookie": {"a=b", "c=d"},
	}
	endtoend.Remove(h)
	want := http.Header{"Content-Type": {"application/json"}, "Set-Cookie": {"a=b", "c=d"}}
	if diff := cmp.Diff(want, h); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCopyLeavesTheSourceAlone(t *testing.T) {
	t.Parallel()
	src := http.Header{"Connection": {"X-Hop"}, "X-Hop": {"1"}, "Etag": {"new"}}
	dst := http.Header{"Etag": {"old"}, "Server": {"s"}}
	endtoend.Copy(dst, src)
	if diff := cmp.Diff(http.Header{"Etag": {"new"}, "Server": {"s"}}, dst); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(src) != 3 {
		t.Errorf("the source was changed: %v", src)
	}
}
