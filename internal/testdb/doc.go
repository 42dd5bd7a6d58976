// Package testdb wraps a database driver, so that tests can count, fail and interrupt
// statements.
//
// It promises that every statement, and every begin and end of a transaction, is seen
// before it is run. It must never be in a program: only tests import it.
package testdb
