// Command e2ee-proxy runs the proxy and the few things that belong beside it.
//
// It promises that every mistake in the configuration is reported at once, that every
// failure is rendered in one place with a hint of what to do, that the exit codes are
// those of exit.go, and that SIGTERM and SIGINT end it without cutting off a send.
//
// It must never contain what is not wiring or command line, print a secret that was
// not asked for by `recovery-key`, or generate a master key beside a database that
// already has one.
//
// Nobody imports it. It imports whatever it wires.
package main
