// Package testproc runs the real programs that tests need: it starts child processes
// and ends them, keeps what is built or downloaded in one cache in the repository, and
// decides what happens when a part is missing.
//
// It promises that a child process ends with the test that started it, also when the
// test binary is killed (on Linux), and that parallel test binaries build a part once.
//
// It must never end a process that it did not start, or print a child's environment.
//
// Importers: tests, test harness packages under internal/, and programs under test/.
package testproc
