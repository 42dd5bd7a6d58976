// Package localsocket has sockets of the file system that only their owner may open.
//
// It promises:
//   - The socket never exists with rights for anybody but its owner, not for a moment.
//   - Every connection is that of a process with the same user ID, or of the administrator
//     (user 0), by what the kernel says of it; others are closed unread.
//   - Nothing of somebody else's, and nothing that is in use, is replaced.
//
// It must never know what is said over the socket.
//
// Importer: cmd/e2ee-proxy.
package localsocket
