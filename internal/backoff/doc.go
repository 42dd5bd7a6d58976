// Package backoff computes how long to wait before something that failed is tried again.
//
// It promises that pauses double from the first to the last and never exceed it, and that
// callers who failed together do not come back together: each pause is shortened at random,
// by up to a quarter.
//
// It must never wait longer than its caller's context, or decide what is worth another try.
//
// Importers: every package that tries again.
package backoff
