// Package parallel does things that cost time on all cores.
//
// It promises that all is done when [Each] returns, and that little is done where it was
// called.
//
// It must never know what is done, or leave anything running.
//
// Anybody may import it; it imports the standard library only.
package parallel
