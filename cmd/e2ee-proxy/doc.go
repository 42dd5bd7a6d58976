// Command e2ee-proxy runs the proxy and the few commands beside it.
//
// It promises that every mistake in the configuration is reported at once, that every
// failure is rendered in one place with a hint of what to do, that the exit codes are those
// of exit.go, and that SIGTERM and SIGINT end it without cutting off a send.
//
// It must never contain anything but wiring and command line, print a secret except by
// `recovery-key`, or generate a master key beside a database that already has one.
//
// Nobody imports it. It imports whatever it wires.
package main
