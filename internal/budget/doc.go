// Package budget shares out something of which there is only so much, such as memory or
// disk, so that nobody can take all of it.
//
// It promises that what is taken never exceeds a total, that no single owner takes more
// than a share of it, and that a refusal says whether waiting helps: [ErrSpent] is over
// when others give back, [ErrNever] is not. It remembers only owners that hold something.
//
// It must never wait, and must never give more than was asked for. Whoever took gives back
// exactly that.
//
// Anybody may import it; it imports the standard library only.
package budget
