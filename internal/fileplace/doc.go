// Package fileplace names files by where they are.
//
// It promises that a copy of a file, even one that is put in its place, has another name on
// systems that can tell.
//
// It must never open a file: closing it would end the process's locks on it.
//
// Importers: store, and tests that put a copy of a database in the place of its original.
package fileplace
