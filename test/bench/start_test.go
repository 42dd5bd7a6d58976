package main

import (
	"path/filepath"
	"testing"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/testproxy"
	"e2ee-proxy/store"
)

const townSize = 10_000

// BenchmarkStart starts the program on a database with 10,000 devices and waits until
// /readyz says that it is ready. It also tells how long it takes after that until every
// device has fetched what came while the proxy was down.
func BenchmarkStart(b *testing.B) {
	t := newTown(b)
	p := testproxy.Start(b, t.url.String(), testproxy.Options{})
	if err := p.Stop(); err != nil {
		b.Fatal(err)
	}
	t.fill(p.Data)
	var ready, fetched meter
	for b.Loop() {
		ready.measure(func() {
			if err := p.Start(b.Context()); err != nil {
				b.Fatal(err)
			}
		})
		fetched.measure(func() {
			await(b, "not every device has synced", func() bool { return t.seen() == townSize })
		})
		if err := p.Stop(); err != nil {
			b.Fatal(err)
		}
		t.release()
	}
	b.ReportMetric(ready.p50()/1e3, "p50-ms")
	b.ReportMetric(fetched.p50()/1e3, "all-synced-p50-ms")
	plain(b)
}

// fill puts the town's devices into the database of a data folder.
func (t *town) fill(data string) {
	t.tb.Helper()
	key, err := store.LoadOrCreateMasterKey(filepath.Join(data, "master.key"), false)
	if err != nil {
		t.tb.Fatal(err)
	}
	db, err := store.Open(t.tb.Context(), store.Options{
		URL: secret.NewString("sqlite:" + filepath.Join(data, "e2ee-proxy.db")), MasterKeys: store.MasterKeys{Current: key},
	})
	if err != nil {
		t.tb.Fatal(err)
	}
	t.addDevices(db, townSize)
	if err := db.Close(); err != nil {
		t.tb.Fatal(err)
	}
}
