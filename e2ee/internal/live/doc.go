// Package live records how current a device's view of the homeserver is: which syncs wait at
// the homeserver, the proxy's own or the client's, and when the last response was stored.
//
// It promises that the homeserver never carries a sync of the client's and one of the
// proxy's for the same device at once, and that a view counts as current only when changes
// would have arrived by now.
//
// It must never make a request.
//
// Importer: e2ee.
package live
