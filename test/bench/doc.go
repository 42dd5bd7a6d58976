// Command bench runs the benchmarks of the tree and prints what they found as one table:
// each figure beside its reference, measured in the same run, and its budget. With -write
// it puts the table into docs/performance.md.
//
// It promises that its exit code says whether everything was measured, and never whether
// a budget holds: a slow machine is no error. The tests of the package hold the benchmarks
// of the whole stack, as wired by the command, in front of a homeserver in this process.
//
// It must never be used for anything but measuring.
//
// Importers: none; it is a program.
package main
