// Package pantalaimon reads what pantalaimon 0.10.5 keeps: its configuration, an INI file,
// and pan.db, which pantalaimon and matrix-nio 0.20 write with SQLite. testdata/make.py made
// the database of the tests with their own code.
//
// It promises that pan.db is only read, and that what it returns are the bytes that stand
// there: keys are pickles of libolm, encrypted under [PickleKey], which is the same for
// everybody.
//
// It must never use a key, write to pantalaimon's files, or put a token or a pickle into an
// error.
//
// Importer: the command line. It knows nothing of Matrix beyond the names of things.
package pantalaimon
