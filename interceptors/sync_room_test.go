package interceptors

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/interceptors/internal/rewrite"
	"e2ee-proxy/internal/budget"
)

// A response of the homeserver that has no room on the disk is no error of the
// homeserver's, and nothing of it is committed.
func TestSyncThatHasNoRoom(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		disk, held int64
		status     int
		code       string
	}{
		{1 << 20, 0, http.StatusBadGateway, apierr.CodeTooLarge},
		{8 << 20, 8 << 20, http.StatusTooManyRequests, apierr.CodeLimitExceeded},
	} {
		disk := budget.New(test.disk, test.disk)
		if err := disk.Take("somebody", test.held); err != nil {
			t.Fatal(err)
		}
		keep := exchange.Spools{Dir: t.TempDir(), Disk: disk}.New(alice, 0)
		_, err := io.Copy(io.Discard, exchange.Spooling(strings.NewReader(strings.Repeat(" ", 3<<20)), keep))
		wantError(t, rewrite.Failure(err), test.status, test.code)
		if err := keep.Close(); err != nil {
			t.Fatal(err)
		}
		if got := disk.Taken(); got != test.held {
			t.Errorf("%d are taken", got)
		}
	}
}
