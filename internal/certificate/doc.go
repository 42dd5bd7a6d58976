// Package certificate keeps a server's certificate and its private key as two files say, and
// takes over what becomes of them while it serves.
//
// It promises that connections always get a pair that fits together: what cannot be read, or
// does not fit, leaves the one before in use, and is reported once.
//
// It must never say anything of the private key, speak anything older than TLS 1.2, or stop
// serving because a file is wrong.
//
// Importers: cmd/e2ee-proxy.
package certificate
