package sqlio

import (
	"slices"
	"strconv"
	"strings"
	"sync"
)

// maxParams is how many parameters one statement has at most. Both databases allow more.
const maxParams = 4096

// ListStatement is a statement with a list in it, such as the rows of an INSERT or the values
// after IN. The list's placeholders are written "?". PostgreSQL gets numbered ones; SQLite
// numbers "?" itself, from the first free number on, and takes time that grows with the
// square of the number of those that have a name. So all fixed parameters have to be
// mentioned before the first "?".
type ListStatement struct {
	Head  string
	Item  string
	Tail  string
	Fixed int // parameters before the list
	Width int // parameters in an item
	// Pad reports whether an item may be repeated without changing the meaning.
	Pad bool
}

// size returns how many items, a power of two, the next statement takes when n are left.
// Powers of two keep the number of different statements small.
func (q *ListStatement) size(n int) int {
	s := 1
	for s*2*q.Width <= maxParams && s*2 <= n {
		s *= 2
	}
	if q.Pad && s < n && s*2*q.Width <= maxParams {
		s *= 2
	}
	return s
}

func (q *ListStatement) text(n int, d *Dialect) string {
	var b strings.Builder
	b.WriteString(q.Head)
	next := q.Fixed
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		for part := range strings.SplitAfterSeq(q.Item, "?") {
			before, numbered := strings.CutSuffix(part, "?")
			b.WriteString(before)
			next++
			switch {
			case !numbered:
				next--
			case d.SharedPool:
				b.WriteString("$" + strconv.Itoa(next))
			default:
				b.WriteByte('?')
			}
		}
	}
	b.WriteString(q.Tail)
	return d.Words.Replace(b.String())
}

// Each calls do with the text and the parameters of every statement that the items need.
func (q *ListStatement) Each(t *TextCache, fixed, items []any, do func(string, []any) error) error {
	for len(items) > 0 {
		n := q.size(len(items) / q.Width)
		params := make([]any, 0, q.Fixed+n*q.Width)
		params = append(params, fixed...)
		took := min(n*q.Width, len(items))
		params = append(params, items[:took]...)
		for len(params) < q.Fixed+n*q.Width {
			params = append(params, items[took-q.Width:took]...)
		}
		if err := do(t.of(q, n), params); err != nil {
			return err
		}
		items = items[took:]
	}
	return nil
}

// TextCache caches the texts of listed statements. Their number is limited: statements are
// fixed and sizes are powers of two.
type TextCache struct {
	dialect *Dialect
	mu      sync.RWMutex
	made    map[textKey]string
}

type textKey struct {
	q *ListStatement
	n int
}

// NewTextCache returns a cache of texts for a dialect.
func NewTextCache(d *Dialect) *TextCache {
	return &TextCache{dialect: d, made: make(map[textKey]string)}
}

func (t *TextCache) of(q *ListStatement, n int) string {
	k := textKey{q, n}
	t.mu.RLock()
	s, ok := t.made[k]
	t.mu.RUnlock()
	if ok {
		return s
	}
	s = q.text(n, t.dialect)
	t.mu.Lock()
	t.made[k] = s
	t.mu.Unlock()
	return s
}

// The columns that say what a row belongs to.
var (
	OfDevice  = []string{"account", "device"}
	OfAccount = []string{"account"}
)

// InsertRows returns a multi-row INSERT: the columns of scope are the fixed parameters, key
// and values those of each row. conflict is the action for an existing row.
func InsertRows(table string, scope, key, values []string, conflict string) *ListStatement {
	columns := slices.Concat(scope, key, values)
	item := make([]string, len(columns))
	for i := range item {
		item[i] = "?"
		if i < len(scope) {
			item[i] = "$" + strconv.Itoa(i+1)
		}
	}
	return &ListStatement{
		Head:  "INSERT INTO " + table + " (" + strings.Join(columns, ", ") + ") VALUES ",
		Item:  "(" + strings.Join(item, ", ") + ")",
		Tail:  " ON CONFLICT (" + strings.Join(slices.Concat(scope, key), ", ") + ") DO " + conflict,
		Fixed: len(scope),
		Width: len(key) + len(values),
	}
}

// ReplaceRows is like InsertRows, and replaces an existing row.
func ReplaceRows(table string, scope, key, values []string) *ListStatement {
	set := make([]string, len(values))
	for i, v := range values {
		set[i] = v + " = excluded." + v
	}
	return InsertRows(table, scope, key, values, "UPDATE SET "+strings.Join(set, ", "))
}

// KeepRows is like InsertRows, and keeps an existing row.
func KeepRows(table string, scope, key, values []string) *ListStatement {
	return InsertRows(table, scope, key, values, "NOTHING")
}

// WhereIn returns a statement about the rows of a device or an account in which a column is
// one of a list. More conditions or an order may follow in tail.
func WhereIn(verb string, scope []string, column, tail string) *ListStatement {
	return &ListStatement{
		Head: verb + " WHERE " + scoped(scope) + " AND " + column + " IN (",
		Item: "?", Tail: ")" + tail, Fixed: len(scope), Width: 1, Pad: true,
	}
}

// WherePair is like WhereIn, for two text columns.
func WherePair(verb string, scope []string, columns string) *ListStatement {
	return &ListStatement{
		Head: verb + " WHERE " + scoped(scope) + " AND (" + columns + ") IN (VALUES ",
		Item: "(CAST(? AS TEXT), CAST(? AS TEXT))", Tail: ")", Fixed: len(scope), Width: 2, Pad: true,
	}
}

func scoped(scope []string) string {
	var b strings.Builder
	for i, s := range scope {
		if i > 0 {
			b.WriteString(" AND ")
		}
		b.WriteString(s + " = $" + strconv.Itoa(i+1))
	}
	return b.String()
}
