// Package testredis runs private Redis servers for tests: one alone, one with Sentinels, or a
// Redis Cluster.
//
// It promises servers on loopback ports of their own, without files that stay, that end with the
// test, however it ends (on Linux). Without redis-server on the machine the test is skipped, or
// fails when E2EE_PROXY_REQUIRE_ALL is 1. It must never touch a server that it did not start. Only
// tests import it.
package testredis
