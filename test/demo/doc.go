// Command demo shows the proxy at work: it starts a real homeserver (Dendrite) and the
// proxy, lets a client that knows nothing of encryption and a client with Element's
// encryption converse in an encrypted room, and prints what each of them saw and what
// the homeserver stored. It exits with 0 only if all of that was right.
//
// It promises to need nothing but Go and Node, to talk to this machine only once its
// parts are built, and to leave nothing running.
//
// It must never be used for anything but showing.
//
// Importers: none; it is a program.
package main
