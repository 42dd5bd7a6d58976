package main

import "slices"

// figure is the source of a number in the table: a benchmark, its unit, and a factor.
type figure struct {
	bench, unit string
	times       float64
}

// budget is a row of the table: a figure, its reference, and a limit.
type budget struct {
	what string
	// measured and reference are in the unit that is shown. A row without a benchmark
	// says why in note.
	measured, reference figure
	// both is the figure that measured and reference include, and that is subtracted from
	// both.
	both figure
	// elsewhere is a reference that was not measured in this run.
	elsewhere string
	unit      string
	// compare is how the limit is applied.
	compare comparison
	limit   float64
	text    string // the budget in words
	note    string
}

// comparison is how a figure is compared with its limit.
type comparison int

const (
	// atMost limits what is measured.
	atMost comparison = iota
	// atLeast is the least that is measured.
	atLeast
	// ratioAtMost limits measured divided by reference.
	ratioAtMost
	// ratioAtLeast is the least of measured divided by reference.
	ratioAtLeast
	// excessAtMost limits measured minus reference.
	excessAtMost
)

// budgets returns all rows, in the order of docs/performance.md, and those of the trust
// cache.
func budgets() []budget {
	return slices.Concat(passBudgets(), messageBudgets(), sendBudgets(), fileBudgets(), trustBudgets(), roomKeyBudgets(), deviceBudgets())
}

func passBudgets() []budget {
	return []budget{
		{
			what:     "pass-through, CPU per request",
			measured: figure{"proxy.PassThrough/e2ee-proxy", "cpu-µs/request", 1}, reference: figure{"proxy.PassThrough/reference=tuned-ReverseProxy", "cpu-µs/request", 1},
			both: figure{"proxy.PassThrough/nothing-between", "cpu-µs/request", 1},
			unit: "µs", compare: ratioAtMost, limit: 1.1, text: "≤ 1.1 × tuned ReverseProxy",
		},
		{
			what:     "pass-through, median",
			measured: figure{"proxy.Nginx/e2ee-proxy", "p50-µs", 1}, reference: figure{"proxy.Nginx/reference=nginx", "p50-µs", 1},
			unit: "µs", compare: excessAtMost, limit: 30, text: "≤ nginx + 30 µs", note: "no nginx on the machine",
		},
		{
			what:     "request that another replica answers, beside one that this one does, median",
			measured: figure{"proxy.Forwarded/e2ee-proxy", "p50-µs", 1e-3}, reference: figure{"proxy.Forwarded/reference=at-the-owner", "p50-µs", 1e-3},
			unit: "ms", compare: excessAtMost, limit: 1, text: "≤ the owner's own + 1 ms",
		},
		{
			what:     "`/sync` of 10 MB rewritten without crypto, per core",
			measured: figure{"interceptors.Sync/encrypted=0", "MB/cpu-s", 1}, reference: figure{"interceptors.Sync/reference=jsontext", "MB/cpu-s", 1},
			unit: "MB/s", compare: ratioAtLeast, limit: 2.5, text: "≥ 2.5 × `jsontext`",
		},
		{
			what:     "the same, growth of the heap",
			measured: figure{"interceptors.Sync/heap", "peak-B", 1e-6}, elsewhere: "the body: 10 MB",
			unit: "MB", compare: atMost, limit: 2, text: "≤ 2 MB",
		},
		{
			what:     "the same, of 100 MB with 50,000 encrypted events",
			measured: figure{"interceptors.Sync/heap", "large-peak-B", 1e-6}, elsewhere: "the body: 100 MB",
			unit: "MB", compare: atMost, limit: 4, text: "≤ 4 MB whatever the body",
		},
		{
			what:     "`/sync` of a device with keys of its own, 100 kB, median",
			measured: figure{"bench.NativeSync", "sync-p50-µs", 1}, reference: figure{"bench.NativeSync", "passed-p50-µs", 1},
			unit: "µs", compare: ratioAtMost, limit: 1.1, text: "≤ 1.1 × what is passed",
		},
	}
}

func messageBudgets() []budget {
	return []budget{
		{
			what:     "one new event decrypted, from the server's bytes to the client's, CPU",
			measured: figure{"bench.Decrypt/e2ee-proxy", "cpu-µs/event", 1}, reference: figure{"bench.Decrypt/reference=goolm", "cpu-µs/event", 1},
			unit: "µs", compare: ratioAtMost, limit: 1.3, text: "≤ 1.3 × bare goolm",
		},
		{
			what:     "of which the search index: the same with it and without, CPU",
			measured: figure{"bench.SearchIndex", "cpu-µs/event-with", 1}, reference: figure{"bench.SearchIndex", "cpu-µs/event-without", 1},
			unit: "µs", compare: ratioAtMost, limit: 1.15, text: "≤ 1.15 × without it",
		},
		{
			what:     "a search among 100,000 messages for a word that stands in 1,000, median",
			measured: figure{"bench.Search", "p50-ms", 1},
			unit:     "ms", compare: atMost, limit: 20, text: "≤ 20 ms",
		},
		{
			what:     "10 MB sync with 5,000 encrypted events, median",
			measured: figure{"bench.BigSync/e2ee-proxy", "p50-ms", 1}, reference: figure{"bench.BigSync/reference=goolm-2-cores", "p50-ms", 1},
			unit: "ms", compare: atMost, limit: 200, text: "≤ 200 ms",
		},
		{
			what:     "`/messages?limit=100`, all encrypted, beside the homeserver's own answer, median",
			measured: figure{"bench.Messages/e2ee-proxy", "p50-ms", 1}, reference: figure{"bench.Messages/reference=homeserver", "p50-ms", 1},
			unit: "ms", compare: excessAtMost, limit: 6, text: "≤ plain + 6 ms",
		},
		{
			what:     "the same, CPU, with the client's and the homeserver's",
			measured: figure{"bench.Messages/e2ee-proxy", "cpu-ms", 1}, reference: figure{"bench.Messages/reference=goolm-2-cores", "cpu-ms", 1},
			unit: "ms", compare: ratioAtMost, limit: 1.3, text: "≤ 1.3 × bare goolm",
		},
	}
}

func sendBudgets() []budget {
	return []budget{
		{
			what:     "encrypted send into a small room, beside a plain one, median",
			measured: figure{"bench.Send", "encrypted-p50-µs", 1e-3}, reference: figure{"bench.Send", "plain-p50-µs", 1e-3},
			unit: "ms", compare: excessAtMost, limit: 1, text: "≤ plain + 1 ms",
		},
		{
			what:     "of which the disk: what writing and syncing 8 kB takes, median",
			measured: figure{"bench.Send", "fsync-p50-µs", 1e-3},
			unit:     "ms", note: "cannot be avoided: the ratchet is safe before the ciphertext leaves",
		},
		{
			what:     "what it adds to the plain one, beside one synced write of 8 kB to the same disk, median",
			measured: figure{"bench.Send", "added-p50-µs", 1e-3}, reference: figure{"bench.Send", "fsync-p50-µs", 1e-3},
			unit: "ms", compare: ratioAtMost, limit: 1.1, text: "≤ 1.1 × the disk's",
		},
		{
			what:     "200 clients that encrypt at once, messages per second, beside synced writes one after the other",
			measured: figure{"bench.ManySenders/engine", "messages/s", 1}, reference: figure{"bench.ManySenders/engine", "fsyncs/s", 1},
			unit: "/s", compare: ratioAtLeast, limit: 5, text: "≥ 5 × the disk's",
		},
		{
			what:     "the same through the whole stack, beside the commits that they share",
			measured: figure{"bench.ManySenders/whole-stack", "messages/s", 1}, reference: figure{"bench.ManySenders/whole-stack", "commits/s", 1},
			unit: "/s", compare: ratioAtLeast, limit: 5, text: "≥ 5 × the commits",
		},
		{
			what:     "encrypted send by a replica on PostgreSQL, beside one on SQLite, median",
			measured: figure{"bench.SendOnPostgreSQL", "postgresql-p50-µs", 1e-3}, reference: figure{"bench.SendOnPostgreSQL", "sqlite-p50-µs", 1e-3},
			unit: "ms", compare: ratioAtMost, limit: 1.3, text: "≤ 1.3 × SQLite's", note: "no PostgreSQL on the machine",
		},
	}
}

func fileBudgets() []budget {
	crypto := figure{"bench.Files/reference=aes-sha", "MB/s", 1}
	return []budget{
		{
			what:     "upload of 100 MB, beside AES-CTR and SHA-256 on one core",
			measured: figure{"bench.Files/upload", "MB/s", 1}, reference: crypto,
			unit: "MB/s", compare: ratioAtLeast, limit: 0.8, text: "≥ 0.8 × the cryptography",
		},
		{
			what:     "download of 100 MB, likewise",
			measured: figure{"bench.Files/download", "MB/s", 1}, reference: crypto,
			unit: "MB/s", compare: ratioAtLeast, limit: 0.8, text: "≥ 0.8 × the cryptography",
		},
		{
			what:     "the upload, beside a ReverseProxy and then the cryptography, all on the same processors",
			measured: figure{"bench.Files/upload", "MB/s", 1}, reference: figure{"bench.Files/reference=passed-and-aes-sha/upload", "MB/s", 1},
			unit: "MB/s", compare: ratioAtLeast, limit: 1, text: "≥ 1 × that",
		},
		{
			what:     "the download, likewise; its first byte waits for its last",
			measured: figure{"bench.Files/download", "MB/s", 1}, reference: figure{"bench.Files/reference=passed-and-aes-sha/download", "MB/s", 1},
			unit: "MB/s", compare: ratioAtLeast, limit: 0.8, text: "≥ 0.8 × that",
		},
		{
			what:     "heap that an upload of 100 MB adds",
			measured: figure{"bench.Files/upload", "heap-MB", 1},
			unit:     "MB", compare: atMost, limit: 4, text: "≤ 4 MB",
		},
		{
			what:     "heap that a download of 100 MB adds",
			measured: figure{"bench.Files/download", "heap-MB", 1},
			unit:     "MB", compare: atMost, limit: 4, text: "≤ 4 MB",
		},
		{
			what:     "first byte of a file of 1 MB, beside one that needs not be decrypted, median",
			measured: figure{"bench.FirstByte/e2ee-proxy", "p50-ms", 1}, reference: figure{"bench.FirstByte/reference=plain", "p50-ms", 1},
			unit: "ms", compare: excessAtMost, limit: 15, text: "≤ plain + 15 ms",
		},
	}
}

func trustBudgets() []budget {
	return []budget{
		{
			what:     "whether a device is given a key, decided from memory",
			measured: figure{"trustcache.Decision/send", "ns/op", 1e-3},
			unit:     "µs", compare: atMost, limit: 1, text: "≤ 1 µs",
		},
		{
			what:     "what becomes of an event, decided from memory",
			measured: figure{"trustcache.Decision/receive", "ns/op", 1e-3},
			unit:     "µs", compare: atMost, limit: 1, text: "≤ 1 µs",
		},
	}
}

func roomKeyBudgets() []budget {
	return []budget{
		{
			what:     "room key to 1,000 devices without Olm sessions, median",
			measured: figure{"bench.Share/new-sessions/e2ee-proxy", "p50-ms", 1}, reference: figure{"bench.Share/new-sessions/reference=goolm-2-cores", "p50-ms", 1},
			unit: "ms", compare: ratioAtMost, limit: 0.75, text: "≤ 0.75 × goolm, in one write",
		},
		{
			what:     "room key to 1,000 devices with Olm sessions, median",
			measured: figure{"bench.Share/old-sessions/e2ee-proxy", "p50-ms", 1}, reference: figure{"bench.Share/old-sessions/reference=goolm-2-cores", "p50-ms", 1},
			unit: "ms", compare: ratioAtMost, limit: 2, text: "≤ 2 × encryption, in one write",
		},
		{
			what:     "the same with the audit log, beside it without, CPU",
			measured: figure{"bench.ShareAudit", "cpu-ms-with", 1}, reference: figure{"bench.ShareAudit", "cpu-ms-without", 1},
			unit: "ms", compare: ratioAtMost, limit: 1.15, text: "≤ 1.15 × without",
		},
	}
}

func deviceBudgets() []budget {
	return []budget{
		{
			what:     "memory of a device that nobody uses",
			measured: figure{"bench.IdleDevice", "B/device", 1e-3},
			unit:     "kB", compare: atMost, limit: 8, text: "≤ 8 kB",
		},
		{
			what:     "memory of a device that was used an hour ago, beside one in use",
			measured: figure{"bench.UsedDevice", "B/device-after-an-hour", 1e-3}, reference: figure{"bench.UsedDevice", "B/used-device", 1e-3},
			unit: "kB", compare: atMost, limit: 6, text: "≤ 6 kB",
		},
		{
			what:     "memory of a client's waiting sync",
			measured: figure{"bench.ParkedSync/e2ee-proxy", "B/poll", 1e-3}, reference: figure{"bench.ParkedSync/reference=tuned-ReverseProxy", "B/poll", 1e-3},
			unit: "kB", compare: atMost, limit: 45, text: "≤ 45 kB",
		},
		{
			what:     "start to ready with 10,000 devices",
			measured: figure{"bench.Start", "p50-ms", 1},
			unit:     "ms", compare: atMost, limit: 1000, text: "≤ 1 s",
		},
		{
			what:     "after that, until all of them have fetched what came meanwhile",
			measured: figure{"bench.Start", "all-synced-p50-ms", 1e-3},
			unit:     "s",
		},
		{
			what:     "start to ready of a second replica beside one with 10,000 accounts",
			measured: figure{"bench.ReplicaStart", "p50-ms", 1},
			unit:     "ms", compare: atMost, limit: 1000, text: "≤ 1 s", note: "no PostgreSQL on the machine",
		},
		{
			what:     "the first one is killed: until the second has all of them, and they have fetched what came",
			measured: figure{"bench.ReplicaStart", "all-synced-p50-ms", 1e-3},
			unit:     "s",
		},
	}
}
