package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store/internal/sqlio"
)

// SearchPartRef names a part of a segment of an account's search index. What the numbers
// mean is the engine's matter.
type SearchPartRef struct {
	Segment int64
	Part    int64
}

// SearchPart is a part of a search index. Data is sealed.
type SearchPart struct {
	SearchPartRef
	Data secret.Bytes
}

const searchPartColumns = "SELECT part, segment, sealed_data FROM search_parts"

var (
	putSearchParts     = sqlio.ReplaceRows("search_parts", sqlio.OfAccount, []string{"part", "segment"}, []string{"sealed_data"})
	dropSearchSegments = sqlio.WhereIn("DELETE FROM search_parts", sqlio.OfAccount, "segment", "")
	selectSearchNumber = sqlio.WhereIn(searchPartColumns, sqlio.OfAccount, "part", "")
	selectSearchParts  = &sqlio.ListStatement{
		Head: searchPartColumns + " WHERE account = $1 AND (part, segment) IN (VALUES ",
		Item: "(CAST(? AS {{int}}), CAST(? AS {{int}}))", Tail: ")", Fixed: 1, Width: 2, Pad: true,
	}
)

const (
	dropSearch      = "DELETE FROM search_parts WHERE account = $1"
	dropAllSearch   = "DELETE FROM search_parts"
	selectSearched  = "SELECT 1 FROM search_parts WHERE account = $1 LIMIT 1"
	selectHasDevice = "SELECT 1 FROM devices WHERE account = $1 AND id = $2"
	// Where the last device of an account is gone, nobody searches.
	dropUnsearched = "DELETE FROM search_parts WHERE account = $1 AND NOT EXISTS (SELECT 1 FROM devices WHERE account = $1)"
)

func searchRow(r SearchPartRef) []string {
	return []string{strconv.FormatInt(r.Part, 10), strconv.FormatInt(r.Segment, 10)}
}

func (b *saver) dropSearch(drop bool) {
	if !drop {
		return
	}
	b.ofAccount = true
	b.step("drop search index", &sqlio.Args{}, func(ctx context.Context, t *sqlio.Tx) error {
		return t.Run(ctx, dropSearch, b.acct.ID)
	})
}

func (b *saver) dropSearchSegments(segments []int64) {
	p := &sqlio.Args{}
	for _, s := range segments {
		p.Num(s)
	}
	b.listOfAccount("delete from the search index", dropSearchSegments, p)
}

func (b *saver) searchParts(all []SearchPart) {
	p := &sqlio.Args{}
	for _, s := range lastByKey(all, func(s *SearchPart) SearchPartRef { return s.SearchPartRef }) {
		p.Num(s.Part)
		p.Num(s.Segment)
		p.Bytes(b.acct.seal(s.Data, "search_parts", "sealed_data", searchRow(s.SearchPartRef)...))
	}
	if len(p.Vals) == 0 {
		return
	}
	b.step("device", &sqlio.Args{}, b.hasDevice)
	b.listOfAccount("search index", putSearchParts, p)
}

// hasDevice fails if the device was deleted: its account's index may be gone with it, and
// must not come back.
func (b *saver) hasDevice(ctx context.Context, t *sqlio.Tx) error {
	has := false
	err := t.Rows(ctx, selectHasDevice, []any{b.acct.ID, b.dev}, func(*sql.Rows) error {
		has = true
		return nil
	})
	if err == nil && !has {
		err = fmt.Errorf("%w: device", ErrNotFound)
	}
	return err
}

// SearchNumbered reads the parts with these numbers, of all segments, in order.
func (db *DB) SearchNumbered(ctx context.Context, acct *Account, numbers []int64) ([]SearchPart, error) {
	p := &sqlio.Args{}
	for _, n := range unique(numbers) {
		p.Num(n)
	}
	return db.readSearch(ctx, acct, selectSearchNumber, p)
}

// SearchParts reads some parts. Those that do not exist are left out.
func (db *DB) SearchParts(ctx context.Context, acct *Account, refs []SearchPartRef) ([]SearchPart, error) {
	p := &sqlio.Args{}
	for _, r := range unique(refs) {
		p.Num(r.Part)
		p.Num(r.Segment)
	}
	return db.readSearch(ctx, acct, selectSearchParts, p)
}

func (db *DB) readSearch(ctx context.Context, acct *Account, q *sqlio.ListStatement, p *sqlio.Args) ([]SearchPart, error) {
	var all []SearchPart
	err := db.list(ctx, q, []any{acct.ID}, p, func(r *sql.Rows) error {
		var s SearchPart
		var sealed sql.RawBytes
		if err := r.Scan(&s.Part, &s.Segment, &sealed); err != nil {
			return err
		}
		var err error
		s.Data, err = acct.open(sealed, "search_parts", "sealed_data", searchRow(s.SearchPartRef)...)
		all = append(all, s)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read search index: %w", err)
	}
	slices.SortFunc(all, func(a, b SearchPart) int {
		if a.Segment != b.Segment {
			return int(min(max(a.Segment-b.Segment, -1), 1))
		}
		return int(min(max(a.Part-b.Part, -1), 1))
	})
	return all, nil
}

// HasSearch reports whether anything of an account's search index is stored.
func (db *DB) HasSearch(ctx context.Context, acct *Account) (bool, error) {
	has := false
	err := db.reader.Query(ctx, selectSearched, []any{acct.ID}, func(*sql.Rows) error {
		has = true
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("look for search index: %w", err)
	}
	return has, nil
}

// DropSearch deletes the search indexes of all accounts.
func (db *DB) DropSearch(ctx context.Context) error {
	err := db.writer.run(ctx, func(ctx context.Context, t *sqlio.Tx) error {
		return t.Run(ctx, dropAllSearch)
	})
	if err != nil {
		return fmt.Errorf("drop search indexes: %w", err)
	}
	return nil
}
