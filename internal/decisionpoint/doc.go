// Package decisionpoint asks a server of the organisation's, over HTTP in the form of OPA's data
// API, about what its rules let be.
//
// It promises:
//   - Several questions are one request.
//   - An answer is one for each question, in order, in exactly the form that is expected; everything
//     else is an error: another status, a redirect, more or fewer answers, unknown members, an
//     answer that is too long or comes too late.
//   - Redirects are not followed, and no other host is given the token.
//
// It must never decide what happens when there is no answer, or put what the server says into an
// error.
//
// Importers: e2ee/internal/orgrules by an interface, cmd/e2ee-proxy.
package decisionpoint
