package store

import (
	"database/sql/driver"

	"e2ee-proxy/internal/testdb"
)

// hook wraps the driver of the store, to count and to fail statements.
type hook struct{ testdb.Hook }

func (h *hook) watch(before func(string) error) { h.Watch(before) }

func (h *hook) statements() []string { return h.Statements() }

func (h *hook) wrap(c driver.Connector) driver.Connector { return h.Wrap(c) }

// as asserts what a database must be for a test to make sense.
func as[T any](v any) T {
	t, _ := v.(T)
	return t
}
