// Package parallel calls a function on all cores.
//
// It promises that all calls have returned when [Each] returns, and that a small number of
// calls is made where Each was called; and that a panic of a goroutine comes to whoever waits for it.
//
// It must never know what the function does, or leave anything running.
//
// Anybody may import it; it imports the standard library only.
package parallel
