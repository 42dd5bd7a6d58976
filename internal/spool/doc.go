// Package spool keeps a body of any size until it is read a second time.
//
// It promises that its memory does not grow with the body: up to a threshold the body is in
// memory, beyond it in memory of a [Pool] of a fixed size, beside the heap, as long as there is
// any, and else all of it is in a temporary file that has no name any more (on systems
// that allow it), mode 0600, encrypted with AES-256-CTR under a key that exists only in
// this process' memory; what is ciphertext
// already, as whoever writes it says, is there as it is. Space on the disk is taken from a budget before it is written, and
// so is memory: a body for which there is no memory goes to the disk early. Close returns
// everything, or leaves a file without a name to [Files] and memory to the pool, where they wait for the next body for a
// minute at most, and are counted.
//
// It must never write clear text to a disk, or let anybody read what was written before: the file
// cannot be read by a later process, nor what is left in it by a later spool.
//
// Anybody may import it; it imports the standard library and the packages budget and parallel only.
package spool
