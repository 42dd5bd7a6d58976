// Package rules decides by an organisation's rules who may not have a room key, a secret or a
// message that the proxy would otherwise give or show (docs/policy.md).
//
// It promises:
//   - The first rule that matches decides. Without one the answer is to allow, which means no more
//     than that nothing is narrowed: who asks, asks only where everything else said yes.
//   - The zero value of an [Answer] denies. A rule that asks for what is not known denies, also
//     one that would allow.
//   - A mistake in a rule is reported before anything is decided, all of them at once, each with
//     its place ([Compile]).
//   - The same rules have the same [Set.Hash], in every process.
//   - A [Set] does not change. A decision needs no lock, no request and no memory that stays.
//
// It must never decide that somebody may have what the engine refuses, and it knows nothing of
// devices' keys, of the network or of the database.
//
// Importers: config, e2ee and cmd/e2ee-proxy.
package rules
