// Package store keeps what the proxy must not forget: one file per table, SQLite
// or PostgreSQL underneath, the same statements for both.
//
// It promises that a [Changes] is written whole or not at all, that every pickle,
// secret, token and clear text is sealed under a key of its account before it
// reaches the database, and that reading and writing take one statement per batch,
// never one per device or event.
//
// It must never print a sealed value, open a database with a wrong or missing
// master key, or create a new key where one is missing for existing data.
//
// Importers: trustcache, e2ee, interceptors, proxy, cmd/e2ee-proxy. It imports config and internal packages only.
package store
