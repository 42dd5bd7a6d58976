package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"e2ee-proxy/store/internal/sqlio"
)

// pgPlace returns the cluster, its timeline, the database and the table. One that a server
// does not reveal (as some hosted ones do) is left out.
func pgPlace(ctx context.Context, t *sqlio.Tx) (string, error) {
	parts := make([]string, 0, 4)
	for _, q := range append(serverQueries(),
		"SELECT oid::text FROM pg_database WHERE datname = current_database()",
		"SELECT 'restore_mark'::regclass::oid::text",
	) {
		part, err := pgAsk(ctx, t, q)
		if err != nil {
			return "", err
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, "/"), nil
}

// pgAsk runs a query that may fail without failing the transaction.
func pgAsk(ctx context.Context, t *sqlio.Tx, q string) (string, error) {
	if _, err := t.Do(ctx, "SAVEPOINT ask"); err != nil {
		return "", err
	}
	answer := "-"
	err := t.Rows(ctx, q, nil, func(r *sql.Rows) error { return r.Scan(&answer) })
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		_, err = t.Do(ctx, "ROLLBACK TO SAVEPOINT ask")
		answer = "-"
	}
	if err != nil {
		return "", fmt.Errorf("ask PostgreSQL: %w", err)
	}
	_, err = t.Do(ctx, "RELEASE SAVEPOINT ask")
	return answer, err
}

// pgTimeline is the timeline of a server that takes writes.
const pgTimeline = "substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"

// serverQueries returns queries about the server: the cluster, which a copy shares, and its
// timeline, which a standby that takes over and a point-in-time recovery change.
func serverQueries() []string {
	return []string{
		"SELECT system_identifier::text FROM pg_control_system()",
		"SELECT " + pgTimeline,
	}
}

// serverOf returns the part of a place that serverQueries return.
func serverOf(place string) string {
	parts := strings.SplitN(place, "/", 3)
	return strings.Join(parts[:min(2, len(parts))], "/")
}

// timelineOf returns the timeline of serverOf's result; empty if it is not known.
func timelineOf(server string) string {
	if _, timeline, _ := strings.Cut(server, "/"); timeline != "-" {
		return timeline
	}
	return ""
}

// pgServer runs serverQueries outside a transaction.
func pgServer(ctx context.Context, ask func(ctx context.Context, query string, to *string) error) (string, error) {
	var parts []string
	for _, q := range serverQueries() {
		var part string
		err := ask(ctx, q, &part)
		var refused *pgconn.PgError
		if errors.As(err, &refused) {
			part, err = "-", nil
		}
		if err != nil {
			return "", fmt.Errorf("ask PostgreSQL: %w", err)
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, "/"), nil
}

// serversMatch compares those parts that both servers revealed.
func serversMatch(a, b string) bool {
	one, other := strings.Split(a, "/"), strings.Split(b, "/")
	for i := range min(len(one), len(other)) {
		if one[i] != other[i] && one[i] != "-" && other[i] != "-" {
			return false
		}
	}
	return true
}
