// Package moves says when the token of a device's syncs is to be moved, and which tokens its
// client was given.
//
// What a client has been shown of the proxy's is known by the homeserver's tokens alone, so an
// answer has something of the proxy's only where its token is another than the request's, and one
// that no client was given before. When nothing happens at the homeserver its token stands still,
// and some clients drop an answer whose token they know. Then the proxy has it move: it sends the
// device an empty to-device message, from the device itself, which nobody is shown.
//
// It promises that moves are a second apart, but for the first few, that one is made for all that
// waits for a token, and that they get rarer while the homeserver does not move it.
//
// It must never make a request, or keep a token.
//
// Importer: e2ee.
package moves
