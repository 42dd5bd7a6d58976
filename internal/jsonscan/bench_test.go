package jsonscan_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"e2ee-proxy/internal/jsonscan"
)

// syncGraph asks for what a rewrite of a sync asks for.
func syncGraph() *jsonscan.Node {
	event := jsonscan.NewNode().Report(1, true)
	event.Down(jsonscan.Key("type")).Report(2, true)
	event.Down(jsonscan.Key("state_key")).Report(3, true)
	event.Down(jsonscan.Key("content"), jsonscan.Key("membership")).Report(4, true)
	root := jsonscan.NewNode()
	events := root.Down(jsonscan.Key("rooms"), jsonscan.Key("join"), jsonscan.Any(), jsonscan.Any(), jsonscan.Key("events"))
	events.Report(5, false)
	events.Link(jsonscan.Elem(), event)
	return root
}

// recordGraph is the same with a record for each event.
func recordGraph() *jsonscan.Node {
	event := jsonscan.NewNode()
	event.Down(jsonscan.Key("type")).Note(0)
	event.Down(jsonscan.Key("state_key")).Note(1)
	event.Down(jsonscan.Key("content"), jsonscan.Key("membership")).Note(2)
	event.Record(1)
	root := jsonscan.NewNode()
	events := root.Down(jsonscan.Key("rooms"), jsonscan.Key("join"), jsonscan.Any(), jsonscan.Any(), jsonscan.Key("events"))
	events.Report(5, false)
	events.Link(jsonscan.Elem(), event)
	return root
}

var watch = []string{"decrypted", "m.relations", "dev.e2ee-proxy.*"}

// BenchmarkScan compares the scan of a sync body with the ways of the field, in the
// same run: jsontext's strict token stream and a round trip through structs.
func BenchmarkScan(b *testing.B) {
	body := syncBody(10 << 20)
	b.Run("whole", func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		root := jsonscan.NewNode()
		for b.Loop() {
			if _, err := jsonscan.Scan(bytes.NewReader(body), root, jsonscan.Options{}, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("events", func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		b.ReportAllocs()
		root := syncGraph()
		for b.Loop() {
			n := 0
			_, err := jsonscan.Scan(bytes.NewReader(body), root, jsonscan.Options{Watch: watch}, func(*jsonscan.Value) error {
				n++
				return nil
			})
			if err != nil || n == 0 {
				b.Fatal(n, err)
			}
		}
	})
	b.Run("records", func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		b.ReportAllocs()
		root := recordGraph()
		for b.Loop() {
			n := 0
			_, err := jsonscan.Scan(bytes.NewReader(body), root, jsonscan.Options{Watch: watch}, func(*jsonscan.Value) error {
				n++
				return nil
			})
			if err != nil || n == 0 {
				b.Fatal(n, err)
			}
		}
	})
	b.Run("reference=jsontext", func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		for b.Loop() {
			d := jsontext.NewDecoder(bytes.NewReader(body), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
			for {
				if _, err := d.ReadToken(); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("reference=structs", func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		for b.Loop() {
			var v map[string]any
			if err := json.NewDecoder(bytes.NewReader(body)).Decode(&v); err != nil {
				b.Fatal(err)
			}
			if err := json.NewEncoder(io.Discard).Encode(v); err != nil {
				b.Fatal(err)
			}
		}
	})
}
