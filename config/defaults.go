package config

import "time"

// Default returns the configuration when nothing is set. Only the homeserver is missing.
func Default() Config {
	return Config{
		Listen:    "127.0.0.1:8009",
		OpsListen: "127.0.0.1:8010",
		Data:      "data",
		Upstream: Upstream{
			ConnectTimeout:    10 * time.Second,
			Timeout:           time.Minute,
			FederationTimeout: 10 * time.Minute,
			SyncTimeout:       10 * time.Minute,
		},
		Limits: Limits{
			Upload:            1 << 30,
			Sends:             2048,
			SendsPerDevice:    64,
			Syncs:             65536,
			SyncsPerDevice:    16,
			SyncWait:          time.Minute,
			Logins:            256,
			Media:             2048,
			BodyMemory:        256 << 20,
			BodyMemoryPerUser: 64 << 20,
			SpoolMemory:       32 << 20,
			SpoolDisk:         4 << 30,
			SpoolDiskPerUser:  1 << 30,
			HeaderTimeout:     15 * time.Second,
			KeepAliveTimeout:  2 * time.Minute,
			IdleTimeout:       time.Minute,
			DrainTimeout:      30 * time.Second,
		},
		Redis:      Redis{Timeout: 100 * time.Millisecond},
		Clients:    Clients{KeyWait: 2 * time.Second},
		Search:     Search{Index: true, MaxMessages: 100_000},
		Audit:      Audit{Enabled: true},
		Console:    Console{Enabled: true},
		Policy:     Policy{DecisionPoint: DecisionPoint{Timeout: 2 * time.Second, Cache: 30 * time.Second}},
		TrustCache: TrustCache{Users: 20000},
	}
}
