// Package auditing writes down decisions about keys and secrets, and what administrators
// did, as records of the audit log.
//
// It promises that a record says who decided, about which devices with which keys, by which
// rule, and by which chain of keys they were judged, as the decision saw all of that; and
// that nothing is made while no log is written.
//
// It must never decide anything, or put a key into a record that is not public.
//
// Importers: e2ee and the packages below e2ee/internal that give keys or secrets.
package auditing
