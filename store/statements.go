package store

import (
	"slices"
	"strconv"
	"strings"
	"sync"
)

// maxParams is how many parameters one statement has at most. Both databases allow more.
const maxParams = 4096

// listStatement is a statement with a list in it, such as the rows of an INSERT or the values
// after IN. The list's placeholders are written "?". PostgreSQL gets numbered ones; SQLite
// numbers "?" itself, from the first free number on, and takes time that grows with the
// square of the number of those that have a name. So all fixed parameters have to be
// mentioned before the first "?".
type listStatement struct {
	head  string
	item  string
	tail  string
	fixed int // parameters before the list
	width int // parameters in an item
	// pad reports whether an item may be repeated without changing the meaning.
	pad bool
}

// size returns how many items, a power of two, the next statement takes when n are left.
// Powers of two keep the number of different statements small.
func (q *listStatement) size(n int) int {
	s := 1
	for s*2*q.width <= maxParams && s*2 <= n {
		s *= 2
	}
	if q.pad && s < n && s*2*q.width <= maxParams {
		s *= 2
	}
	return s
}

func (q *listStatement) text(n int, d *dialect) string {
	var b strings.Builder
	b.WriteString(q.head)
	next := q.fixed
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		for part := range strings.SplitAfterSeq(q.item, "?") {
			before, numbered := strings.CutSuffix(part, "?")
			b.WriteString(before)
			next++
			switch {
			case !numbered:
				next--
			case d.sharedPool:
				b.WriteString("$" + strconv.Itoa(next))
			default:
				b.WriteByte('?')
			}
		}
	}
	b.WriteString(q.tail)
	return d.words.Replace(b.String())
}

// each calls do with the text and the parameters of every statement that the items need.
func (q *listStatement) each(t *textCache, fixed, items []any, do func(string, []any) error) error {
	for len(items) > 0 {
		n := q.size(len(items) / q.width)
		params := make([]any, 0, q.fixed+n*q.width)
		params = append(params, fixed...)
		took := min(n*q.width, len(items))
		params = append(params, items[:took]...)
		for len(params) < q.fixed+n*q.width {
			params = append(params, items[took-q.width:took]...)
		}
		if err := do(t.of(q, n), params); err != nil {
			return err
		}
		items = items[took:]
	}
	return nil
}

// textCache caches the texts of listed statements. Their number is limited: statements are
// fixed and sizes are powers of two.
type textCache struct {
	dialect *dialect
	mu      sync.RWMutex
	made    map[textKey]string
}

type textKey struct {
	q *listStatement
	n int
}

func newTexts(d *dialect) *textCache {
	return &textCache{dialect: d, made: make(map[textKey]string)}
}

func (t *textCache) of(q *listStatement, n int) string {
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
	ofDevice  = []string{"account", "device"}
	ofAccount = []string{"account"}
)

// insertRows returns a multi-row INSERT: the columns of scope are the fixed parameters, key
// and values those of each row. conflict is the action for an existing row.
func insertRows(table string, scope, key, values []string, conflict string) *listStatement {
	columns := slices.Concat(scope, key, values)
	item := make([]string, len(columns))
	for i := range item {
		item[i] = "?"
		if i < len(scope) {
			item[i] = "$" + strconv.Itoa(i+1)
		}
	}
	return &listStatement{
		head:  "INSERT INTO " + table + " (" + strings.Join(columns, ", ") + ") VALUES ",
		item:  "(" + strings.Join(item, ", ") + ")",
		tail:  " ON CONFLICT (" + strings.Join(slices.Concat(scope, key), ", ") + ") DO " + conflict,
		fixed: len(scope),
		width: len(key) + len(values),
	}
}

// replaceRows is like insertRows, and replaces an existing row.
func replaceRows(table string, scope, key, values []string) *listStatement {
	set := make([]string, len(values))
	for i, v := range values {
		set[i] = v + " = excluded." + v
	}
	return insertRows(table, scope, key, values, "UPDATE SET "+strings.Join(set, ", "))
}

// keepRows is like insertRows, and keeps an existing row.
func keepRows(table string, scope, key, values []string) *listStatement {
	return insertRows(table, scope, key, values, "NOTHING")
}

// whereIn returns a statement about the rows of a device or an account in which a column is
// one of a list. More conditions or an order may follow in tail.
func whereIn(verb string, scope []string, column, tail string) *listStatement {
	return &listStatement{
		head: verb + " WHERE " + scoped(scope) + " AND " + column + " IN (",
		item: "?", tail: ")" + tail, fixed: len(scope), width: 1, pad: true,
	}
}

// wherePair is like whereIn, for two text columns.
func wherePair(verb string, scope []string, columns string) *listStatement {
	return &listStatement{
		head: verb + " WHERE " + scoped(scope) + " AND (" + columns + ") IN (VALUES ",
		item: "(CAST(? AS TEXT), CAST(? AS TEXT))", tail: ")", fixed: len(scope), width: 2, pad: true,
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
