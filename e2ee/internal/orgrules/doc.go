// Package orgrules asks an organisation's rules (package internal/rules) wherever a part of the
// engine would give a key or a secret, or show a message, and counts and logs what they say.
//
// It promises:
//   - Without rules nothing is asked, counted or logged, and nothing is narrowed.
//   - What is asked is made of what trustcache has judged: how far a device is trusted is never
//     taken from what a homeserver or a sender says of it.
//   - Its metrics have one line for each rule, direction and outcome, and name no user.
//
// It must never be asked instead of trustcache, only after it, and it makes no request.
//
// Importers: core, and with it every part of the engine.
package orgrules
