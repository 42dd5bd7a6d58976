package strictjson

import (
	"strings"
	"testing"
)

// equal reports whether two objects are the same, byte for byte.
func equal(a, b Object) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Name != b[i].Name || string(a[i].Value) != string(b[i].Value) {
			return false
		}
	}
	return true
}

// agree fails if what is read quickly is not what jsontext reads. It reports whether it was read
// quickly.
func agree(t *testing.T, raw []byte) bool {
	t.Helper()
	got, ok := quick(raw)
	if !ok {
		return false
	}
	want, err := parse(raw)
	if err != nil || !equal(got, want) {
		t.Errorf("%q: read as %v, but jsontext says %v, %v", raw, got, want, err)
	}
	return true
}

func TestQuickReadsWhatJSONTextReads(t *testing.T) {
	t.Parallel()
	deep := func(n int) string { return `{"a":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}` }
	wide := func(n int) string {
		return `{"a":1` + strings.Repeat(`,"b`, 1) + strings.Join(strings.Split(strings.Repeat("x", n), ""), `":1,"b`) + `":1}`
	}
	for raw, want := range map[string]bool{
		`{}`:                        true,
		" \t\r\n{ } \n":             true,
		`{"type":"m.room.message"}`: true,
		`{"a":1,"b":-0,"c":0.5e+10,"d":1E-2,"e":-12.03e0}`:            true,
		`{"a":[],"b":[1,"x",{},[ ]],"c":{"d":{"e":null}}}`:            true,
		`{"a":true,"b":false,"c":null}`:                               true,
		`{"a":"\u00e9\n\/\\\" and a longer text, with\tmore \u000a"}`: true,
		`{"a":"äöü, 漢字 and 😀, longer than eight"}`:                    true,
		"{\"a\":\"\x7f\u0080\u2028\"}":                                true,
		`{ "a" : 1 , "b" : [ 1 , 2 ] }`:                               true,
		`{"a":{"b":1},"c":{"b":1}}`:                                   true,
		`{"ä":1,"A":2,"a":3,"":4}`:                                    true,
		deep(8):                                                       true,
		deep(30):                                                      false,
		wide(1):                                                       true,
		`{"a":"\ud83d\ude00"}`:                                        false,
		`{"a":"\ud83d"}`:                                              false,
		`{"a":"\uDFFF"}`:                                              false,
		`{"\u0061":1}`:                                                false,
		`{"a":1,"a":1}`:                                               false,
		`{"c":{"a":1,"b":2,"a":1}}`:                                   false,
		`[{"a":1,"a":1}]`:                                             false,
		`{"c":[{"a":1,"a":1}]}`:                                       false,
		"{\"a\":\"\xff\"}":                                            false,
		"{\"a\":\"\xed\xa0\x80\"}":                                    false,
		"{\"a\":\"\xc0\xaf\"}":                                        false,
		"{\"\xff\":1}":                                                false,
		"{\"a\":\"\x00\"}":                                            false,
		"{\"a\":\"1234567\n\"}":                                       false,
		"{\"a\":\"12345678\x1f\"}":                                    false,
		"\ufeff{}":                                                    false,
		"{\v}":                                                        false,
		"{\u00a0}":                                                    false,
		`{"a":01}`:                                                    false,
		`{"a":+1}`:                                                    false,
		`{"a":.5}`:                                                    false,
		`{"a":1.}`:                                                    false,
		`{"a":1e}`:                                                    false,
		`{"a":-}`:                                                     false,
		`{"a":NaN}`:                                                   false,
		`{"a":True}`:                                                  false,
		`{"a":truex}`:                                                 false,
		`{"a":nul}`:                                                   false,
		`{"a":"\x41"}`:                                                false,
		`{"a":"\u00g0"}`:                                              false,
		`{"a":"\u00`:                                                  false,
		`{"a":"\`:                                                     false,
		`{"a":"`:                                                      false,
		`{"a":'b'}`:                                                   false,
		`{a:1}`:                                                       false,
		`{"a"}`:                                                       false,
		`{"a":}`:                                                      false,
		`{"a":1,}`:                                                    false,
		`{,"a":1}`:                                                    false,
		`{"a":1 "b":2}`:                                               false,
		`{"a":[1,]}`:                                                  false,
		`{"a":[,1]}`:                                                  false,
		`{"a":[1 2]}`:                                                 false,
		`{"a":[}`:                                                     false,
		`{"a":{]}`:                                                    false,
		`{"a":1}}`:                                                    false,
		`{"a":1}{}`:                                                   false,
		`{"a":1`:                                                      false,
		`{`:                                                           false,
		``:                                                            false,
		`null`:                                                        false,
		`"a"`:                                                         false,
		`{"a":1/**/}`:                                                 false,
	} {
		if got := agree(t, []byte(raw)); got != want {
			t.Errorf("%q: read quickly: %v", raw, got)
		}
		// Whatever stands at whatever place of the eight that are looked at together.
		for i := range 9 {
			agree(t, []byte(strings.Replace(raw, `"a":"`, `"a":"`+strings.Repeat("x", i), 1)))
		}
	}
	var many strings.Builder
	many.WriteString(`{"a":1`)
	for i := range quickWidth {
		many.WriteString(`,"` + strings.Repeat("b", i+1) + `":1`)
	}
	if raw := many.String() + `}`; agree(t, []byte(raw)) {
		t.Error("a wide object is read quickly")
	} else if obj, err := Parse([]byte(raw)); err != nil || len(obj) != quickWidth+1 {
		t.Errorf("a wide object is read as %v, %v", obj, err)
	}
}

// Every byte at every place of a text and around it.
func TestQuickOfEveryByte(t *testing.T) {
	t.Parallel()
	const event = `{"a":"1234567\"é","b":[-1.5e3,true,{"c":null}]}`
	read := 0
	for i := range event {
		for c := range 256 {
			raw := []byte(event)
			raw[i] = byte(c)
			if agree(t, raw) {
				read++
			}
		}
	}
	if read == 0 {
		t.Error("nothing is read quickly")
	}
}

// What is quoted as it is, is what jsontext quotes.
func TestAppendQuote(t *testing.T) {
	t.Parallel()
	for c := range 0x300 {
		s := "x" + string(rune(c))
		obj, err := parse([]byte(`{"a":` + string(Quote(s)) + `}`))
		if err != nil {
			t.Fatalf("%q is quoted as %s", s, Quote(s))
		}
		if got, ok := obj.Text("a"); !ok || got != s {
			t.Errorf("%q is read as %q", s, got)
		}
	}
}

func FuzzQuick(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":{"b":[1,"\u0000"]}}`, `{"a":1,"a":2}`, `{"é":"\ud83d\ude00"}`, `{"type":"m.room.message","content":{"body":"x\n","m.mentions":{}},"x":-1.5e7}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) { agree(t, raw) })
}

// BenchmarkParse reads an encrypted event.
func BenchmarkParse(b *testing.B) {
	event := []byte(`{"content":{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"` + strings.Repeat("AwgAEqAB", 60) + `","session_id":"` + strings.Repeat("x", 43) + `"},"event_id":"$` + strings.Repeat("y", 43) + `","origin_server_ts":1700000000000,"sender":"@sender:liar.test","type":"m.room.encrypted","unsigned":{"age":1234}}`)
	for name, read := range map[string]func([]byte) (Object, error){"quick": Parse, "reference=jsontext": parse} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := read(event); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
