// Package rollout records what the policy did to an account and, while a direction is on
// "warn", what enforcing it would have done: metrics count it for all accounts, and the
// status shows it to each account by room, so that an administrator can decide when to
// enforce it (docs/msc4153.md).
//
// It promises that what it remembers of an account is bounded.
//
// It must never decide anything, and no metric names a user, a device or a room.
//
// Importer: e2ee.
package rollout
