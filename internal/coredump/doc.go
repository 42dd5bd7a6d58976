// Package coredump keeps the memory of a process out of the files that systems write when a
// program crashes.
//
// It promises that after Forbid, if it returns no error, a crash leaves no core file: on
// Linux neither by the limits of a shell nor by a program that collects them, and no
// process of the same user can attach to this one and read its memory; on other Unix
// systems by the limit on the size of such files. Elsewhere it does nothing.
//
// It must never be taken for more: root can read any memory, memory can be swapped to disk, and a
// snapshot of a machine has all of it. docs/operations.md says what else to do.
//
// Importers: cmd/e2ee-proxy. It imports nothing of this module.
package coredump
