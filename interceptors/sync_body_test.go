package interceptors_test

import (
	"fmt"
	"strings"
)

// syncBody makes a sync response of about the given size with this many encrypted
// events; the rest are plain messages and membership events, in about 1 room for each
// 50 events.
func syncBody(size, encrypted int) []byte {
	var b strings.Builder
	b.Grow(size + 8<<10)
	b.WriteString(`{"next_batch":"s72595_4483_1934","account_data":{"events":[]},"device_one_time_keys_count":{"signed_curve25519":50},"rooms":{"join":{`)
	event := 0
	for room := 0; b.Len() < size || encrypted > 0; room++ {
		if room > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"!room%d:example.org":{"timeline":{"events":[`, room)
		for e := range 34 {
			if e > 0 {
				b.WriteByte(',')
			}
			event++
			if encrypted > 0 {
				encrypted--
				fmt.Fprintf(&b, `{"type":"m.room.encrypted","sender":"@user%d:example.org","content":{"algorithm":"m.megolm.v1.aes-sha2","session_id":"GkWCYBAPvZuzyBsIHlAk5SZYbHFNU4WwG8HUr/YvnRs","ciphertext":{"type":"m.room.message","content":{"body":"This is message number %d, and it says \"hello\" to everybody","msgtype":"m.text"}}},"event_id":"$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq%d","origin_server_ts":1432735824653,"unsigned":{"age":1234,"membership":"join"}}`, e, e, event)
				continue
			}
			fmt.Fprintf(&b, `{"type":"m.room.message","sender":"@user%d:example.org","content":{"body":"This is message number %d, and it says \"hello\" to everybody who reads it\n","msgtype":"m.text","m.mentions":{}},"event_id":"$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq%d","origin_server_ts":1432735824653,"unsigned":{"age":1234,"membership":"join"}}`, e, e, event)
		}
		b.WriteString(`],"limited":true,"prev_batch":"t34-23535_0_0"},"state":{"events":[`)
		for e := range 16 {
			if e > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, `{"content":{"avatar_url":"mxc://example.org/SEsfnsuifSDFSSEF","displayname":"Alice Margatroid","membership":"join","reason":"Looking for support"},"event_id":"$143273582443PhrSn%d:example.org","origin_server_ts":1432735824653,"room_id":"!jEsUZKDJdhlrceRyVU:example.org","sender":"@example:example.org","state_key":"@alice%d:example.org","type":"m.room.member","unsigned":{"age":1234,"membership":"join"}}`, e, e)
		}
		b.WriteString(`]},"summary":{"m.joined_member_count":16},"unread_notifications":{"highlight_count":0,"notification_count":5}}`)
	}
	b.WriteString(`}}}`)
	return []byte(b.String())
}
