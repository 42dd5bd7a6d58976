// Package archtest holds the tests about the tree itself: who may import whom, what no
// file may contain, what every package must say about itself, and that what the pages name
// exists.
//
// It promises that each rule names its reason where it fails. It must never contain
// anything but tests. Nobody may import it.
package archtest
