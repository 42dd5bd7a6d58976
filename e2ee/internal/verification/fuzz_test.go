package verification

import (
	"encoding/json"
	"testing"
)

// Whatever the other side sends, in whatever order: nothing is verified as long as nobody here
// has confirmed, nothing is said after the end, and nothing fails.
func FuzzEvents(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7}, `{"from_device":"BOB","method":"m.sas.v1","key":"AAAA"}`)
	f.Add([]byte{2, 4, 5, 6}, `{"from_device":"BOB","method":"m.reciprocate.v1","secret":"AAAA"}`)
	f.Add([]byte{2, 4, 5}, `{"from_device":"BOB","method":"m.sas.v1","key_agreement_protocols":["curve25519-hkdf-sha256"],"hashes":["sha256"],"message_authentication_codes":["hkdf-hmac-sha256.v2"],"short_authentication_string":["decimal"],"key":"3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08","mac":{"x":"y"},"keys":"z"}`)
	kinds := []string{typeRequest, typeReady, typeStart, typeAccept, typeKey, typeMac, typeDone, typeCancel}
	f.Fuzz(func(t *testing.T, order []byte, content string) {
		w := twoUsers(t)
		w.request(w.b)
		w.do(w.a, Flow.Accept)
		w.tamper = func(*person, Message) *Message { return nil }
		over := 0
		for i, n := range order[:min(len(order), 80)] {
			members := map[string]json.RawMessage{}
			if json.Unmarshal([]byte(content), &members) != nil {
				return
			}
			members["transaction_id"], members["n"] = json.RawMessage(`"txn"`), json.RawMessage{'1' + byte(i%9)}
			raw, err := json.Marshal(members)
			if err != nil {
				return
			}
			ev, ok := OfDevice(Prefix+kinds[int(n)%len(kinds)], bob, raw)
			if !ok {
				continue
			}
			sent := len(w.a.sent)
			w.hear(w.a, ev)
			if w.a.flow.state.Over() {
				if over++; over > 1 && len(w.a.sent) > sent {
					t.Fatal("it goes on after its end")
				}
			}
			_ = w.a.flow.View()
		}
		if w.a.got != nil || w.a.flow.state == Done || w.a.flow.state == Confirmed {
			t.Fatalf("it is %s, and recorded %+v", w.a.flow.state, w.a.got)
		}
	})
}
