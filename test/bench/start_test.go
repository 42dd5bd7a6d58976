package main

import (
	"encoding/base64"
	"fmt"
	"path/filepath"
	"testing"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/testpg"
	"e2ee-proxy/internal/testproc"
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

// BenchmarkReplicaStart starts a second replica beside one that has the 10,000 accounts, and
// waits until it is ready. Then the first one is killed, and the second has to take all of them
// and fetch what came.
func BenchmarkReplicaStart(b *testing.B) {
	var server testpg.Server
	b.Cleanup(func() {
		if err := server.Stop(); err != nil {
			b.Error(err)
		}
	})
	t := newTown(b)
	database := server.Database(b)
	db := openDatabase(b, store.Options{URL: secret.NewString(database)})
	t.addDevices(db, townSize)
	if err := db.Close(); err != nil {
		b.Fatal(err)
	}
	settings := func() testproxy.Options {
		ports, err := testproc.FreePorts(1)
		if err != nil {
			b.Fatal(err)
		}
		return testproxy.Options{Config: fmt.Sprintf(
			"database: {url: %q}\nmaster_key: {key: %q}\ncluster: {listen: '127.0.0.1:%d', advertise: 'http://127.0.0.1:%d', secret: 'a secret of the benchmark, 32 bytes'}\n",
			database, base64.StdEncoding.EncodeToString(masterKey()), ports[0], ports[0])}
	}
	first, second := testproxy.Start(b, t.url.String(), settings()), testproxy.Start(b, t.url.String(), settings())
	var ready, fetched meter
	for b.Loop() {
		if err := second.Stop(); err != nil {
			b.Fatal(err)
		}
		await(b, "not every device has synced", func() bool { return t.seen() == townSize })
		t.release()
		ready.measure(func() {
			if err := second.Start(b.Context()); err != nil {
				b.Fatal(err)
			}
		})
		fetched.measure(func() {
			first.Kill()
			await(b, "not every device has synced", func() bool { return t.seen() == townSize })
		})
		if err := first.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		first, second = second, first
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
