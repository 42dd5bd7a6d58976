package proxy

import (
	"testing"

	"e2ee-proxy/interceptors"
)

// BenchmarkForwarded is a send that another process answers, beside one that this one does. What
// the handler does, which is the same for both, is to pass it on. Each token is looked up once.
func BenchmarkForwarded(b *testing.B) {
	const put = "PUT /_matrix/client/v3/rooms/%21room%3Ahs/send/m.room.message/t1 HTTP/1.1\r\nHost: proxy.test\r\n" +
		"Authorization: Bearer alice\r\nContent-Type: application/json\r\nContent-Length: 33\r\n\r\n" + `{"msgtype":"m.text","body":"hej"}`
	for _, c := range []struct {
		name  string
		owner string
	}{{"reference=at-the-owner", "a"}, {"e2ee-proxy", "b"}} {
		b.Run(c.name, func(b *testing.B) {
			a, _ := pair(b, func(o *Options) { o.Handlers[interceptors.Send] = relayed })
			a.view.give("@alice:hs", c.owner)
			loopOn(b, a.front.Listener.Addr().String(), put)
		})
	}
}
