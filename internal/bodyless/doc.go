// Package bodyless makes HTTP/1.1 requests that have no body, on the goroutine that wants the
// answer. Most of what passes through a proxy is such a request, and [http.Transport], which must
// be ready to send a body and to read at once, has two goroutines for each connection: waking them
// costs more than all else that a proxy adds, and their stacks are most of what a waiting poll
// holds. Requests and answers are written and read by net/http.
//
// It promises:
//   - One exchange at a time on a connection, and a connection is used again only if the answer was
//     read to its end, nothing came after it, and nobody gave the exchange up.
//   - A request is sent twice only if the connection was used before and nothing of an answer came.
//   - All that waits has an end: dialling, writing, waiting for the header, a context.
//
// It must never take a request that has a body or that may not be repeated: see [Takes]. Redirects,
// compression, cookies and proxies do not exist here.
//
// Only the package proxy may import it.
package bodyless
