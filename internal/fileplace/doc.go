// Package fileplace names files by where they lie.
//
// It promises that a copy of a file, even one that is put in its place, has another name
// on systems that can tell.
//
// It must never open a file: closing it would end the process's locks on it.
//
// Importers: store, and tests that give a copy of a database the place of a database of
// its own.
package fileplace
