// Package status says how a device and its owner's identity stand, and what a person can do
// about what is wrong.
//
// It promises that every problem has a code that does not change, says what happened and
// what to do, and that nobody is asked to do what the proxy is about to do itself.
//
// It must never read or decide anything: it is given what was found.
//
// Importer: e2ee.
package status
