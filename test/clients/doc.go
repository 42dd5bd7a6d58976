// Package clients tries the clients that people have, unmodified and in the versions that
// docs/clients.md names, through the proxy: in an encrypted room, with Element's crypto on
// the other side. It has tests only; beside them lie what the clients are installed from and
// the scripts that drive those that are libraries.
//
// It promises that what docs/clients.md says of a client was seen.
//
// It must never change a client, or import the proxy's own packages: the proxy is a program
// here.
//
// Importers: none.
package clients
