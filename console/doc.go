// Package console has the pages on which a person sees how their account stands, verifies people,
// and mends what is broken: rendered here, with one stylesheet, and without a script that anything
// needs.
//
// It promises:
//   - A page shows, and a form does, only what the session's own user may see and do; what
//     administrators see only those see whom the settings name, as of now.
//   - Nothing is changed by a GET, nor by a form that was not on a page of the same session.
//   - A page posted twice does no more than once, or says why not.
//   - Every error says what happened and what to do, in words for people; an error that is not
//     for people is in the log under the request's number.
//   - Pages run no code and load nothing but what is from here, and no other website can frame
//     them or read them.
//
// It must never put a secret into a URL, show a key twice, or decide whom to trust.
//
// Importers: proxy has its interface, cmd/e2ee-proxy makes it. It imports interceptors, e2ee and
// what lies below.
package console
