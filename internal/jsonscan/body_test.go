package jsonscan_test

import (
	"fmt"
	"strings"
)

// syncBody makes a body that is shaped like a sync response of about the given size:
// 1 room for each 50 events, and one event in three a membership event of the state.
func syncBody(size int) []byte {
	var b strings.Builder
	b.Grow(size + 4096)
	b.WriteString(`{"next_batch":"s72595_4483_1934","account_data":{"events":[]},"rooms":{"join":{`)
	for room := 0; b.Len() < size; room++ {
		if room > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"!room%d:example.org":{"timeline":{"events":[`, room)
		for e := range 34 {
			if e > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, `{"type":"m.room.message","sender":"@user%d:example.org","content":{"body":"This is message number %d, and it says \"hello\" to everybody who reads it\n","msgtype":"m.text","m.mentions":{}},"event_id":"$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr%d","origin_server_ts":14327358%d,"unsigned":{"age":1234,"membership":"join"}}`, e, e, e, e)
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
