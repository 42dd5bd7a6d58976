// Package checkup says, link by link, what a conversation through a device needs, and which
// of it is not in order: a person follows the chain until the link that is broken.
//
// It promises that every link is named, in the order in which they depend on each other, that
// what nobody could look at is not said to be in order, and that each that is not in order
// says why that matters and what to do.
//
// It must never read or decide anything: it is given what was found.
//
// Importer: e2ee.
package checkup
