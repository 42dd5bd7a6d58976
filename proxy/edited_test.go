package proxy

import (
	"net/http"
	"strings"
	"testing"

	"e2ee-proxy/interceptors"
)

// Attack vector: a message to devices of 16 MB, which is held and copied once without the
// entries that may not leave, takes a user's memory whole. It is refused before it is read
// where that is not enough, and taken where it is.
func TestEditedBodiesKeepToTheMemoryOfAUser(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		size, share int64
		status      int
	}{
		{1 << 20, 16 << 20, http.StatusOK},
		{8 << 20, 16 << 20, http.StatusRequestEntityTooLarge},
		{16 << 20, 64 << 20, http.StatusOK},
		{17 << 20, 64 << 20, http.StatusRequestEntityTooLarge},
	} {
		read := int64(-1)
		g := newRig(t, func(o *Options) {
			o.Limits.BodyMemory, o.Limits.BodyMemoryPerUser = 256<<20, tt.share
			o.Handlers[interceptors.SendToDevice] = func(x *interceptors.Exchange) error {
				raw, err := x.ReadWhole()
				if err != nil {
					return err
				}
				read = int64(len(raw))
				return x.WriteJSON(struct{}{})
			}
		})
		a := g.do("PUT", "/_matrix/client/v3/sendToDevice/m.room.encrypted/1", strings.Repeat(" ", int(tt.size)), "Authorization: Bearer alice")
		if a.StatusCode != tt.status || (tt.status == http.StatusOK) != (read == tt.size) {
			t.Errorf("%d bytes with %d: %d %s, read %d", tt.size, tt.share, a.StatusCode, a.body, read)
		}
	}
}
