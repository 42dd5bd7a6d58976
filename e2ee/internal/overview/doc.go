// Package overview has what administrators are shown of all accounts, and may do: end an
// account's sessions.
//
// It promises:
//   - A page is one query, whatever the number of accounts, and has a bounded size.
//   - What comes from the database is about all accounts; what only memory knows says that it is
//     of this process.
//   - Nothing that it returns has a key, a token or a text of a message.
//   - Nothing is returned, and nothing done, that the audit log was not told of.
//
// It must never decide who is an administrator, which whoever calls it has done.
//
// Importer: e2ee.
package overview
