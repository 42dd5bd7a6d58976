// Package attempts limits how often something may be tried under one name: so many times at once,
// then once per interval.
//
// It promises:
//   - Each process counts by itself, and that count always holds.
//   - With a Redis, all replicas of one database count together as well: an attempt is refused when
//     either count says so. What Redis loses, or hides, is made up for by the process's own count; what
//     it shows too much of refuses nobody for longer than the limit's burst takes.
//   - A refused attempt does not count.
//
// It must never hold a lock while Redis is asked. Anybody may import it.
package attempts
