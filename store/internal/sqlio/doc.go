// Package sqlio is the SQL below the tables: the two dialects, statements with lists in them,
// how Go values become columns, and how rows are read in and out of transactions.
//
// It promises:
//   - A value is stored and read alike in both databases, whatever bytes a text has.
//   - A statement has at most a bounded number of parameters, and few different texts are
//     made, whatever the sizes.
//   - Nothing that others choose becomes a part of a statement's text.
//
// It must never know a table, seal or open a value, or print one.
//
// Importer: store.
package sqlio
