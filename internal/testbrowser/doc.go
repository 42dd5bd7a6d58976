// Package testbrowser drives a real browser, headless Chromium, for tests of pages: as a person with
// a mouse or a keyboard, with and without script, and with axe-core, which finds what keeps people
// with disabilities from using a page.
//
// The browser is driven by a child process that speaks JSON lines; see test/browser/main.mjs for the
// other end. It promises that every call has a deadline and that the browser ends with the test.
//
// It must never be used outside tests.
//
// Importers: tests.
package testbrowser
