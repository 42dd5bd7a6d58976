// Package cluster lets several processes of the proxy, replicas, share one PostgreSQL: any of
// them takes any request, and one that does not own the request's account hands it to the one
// that does.
//
// It promises:
//   - Nothing is taken from who has not shown that it belongs to the cluster, by the secret or
//     by a certificate; and nothing is sent to who has not: a false address in the database gets
//     no access token. The secret itself is never sent.
//   - A request is handed on once. The replica that gets it answers, or says that the account is
//     another's, before anything was done.
//   - What a replica answers is passed to the client and believed in nothing else.
//   - A replica that is no longer among the live ones of the database is waited for no longer.
//   - An account that is given away has no request under way here that may write.
//
// It must never decide whose an account is: PostgreSQL does. It must never log a token, a path,
// a query or a body, or keep a password longer than the call that brought it.
//
// Importers: proxy, cmd/e2ee-proxy. It imports interceptors and what lies below.
package cluster
