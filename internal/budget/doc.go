// Package budget shares out a limited amount of something, such as memory or disk, so that
// nobody can take all of it.
//
// It promises that what is taken never exceeds a total, that no single owner takes more
// than a share of it, and that a refusal says whether waiting helps: [ErrSpent] ends when
// others return something, [ErrNever] does not. It remembers only owners that hold
// something.
//
// What is only kept for as long as there is room is given back before anybody is refused.
//
// It must never wait, and must never take more than was asked for. Owners must return
// exactly what they took.
//
// Anybody may import it; it imports the standard library only.
package budget
