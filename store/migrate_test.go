package store

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/store/internal/sqlio"
)

// update writes the fixture of the current schema version: once, when it is released.
var update = flag.Bool("update", false, "write testdata/version_N.json for the current schema version")

// fixture is the content of a database of some version, filled with everything under
// testKey 1: table, then rows, then columns.
type fixture map[string][]map[string]any

func fixturePath(version int64) string {
	return filepath.Join("testdata", fmt.Sprintf("version_%d.json", version))
}

// TestEveryReleasedVersionIsMigrated opens a database of every version that was released,
// on both kinds, and reads everything that was in it (attack 58).
func TestEveryReleasedVersionIsMigrated(t *testing.T) {
	t.Parallel()
	if *update {
		writeFixture(t)
	}
	for version := int64(1); version <= int64(len(migrations)); version++ {
		onBoth(t, func(t *testing.T, url string) {
			load(t, url, version)
			db := open(t, options(t, url))
			same(t, "taken for restored", db.Restored(), "")
			acct := must[*Account](t)(db.LookupAccount(t.Context(), alice))
			dev, c := fixtureContent()
			dev.ID = must[Device](t)(db.Device(t.Context(), acct, "A")).ID
			dev.SyncPosition = "s1"
			checkEverything(t, db, acct, dev, c)
			save(t, db, acct, dev.ID, rest())
			same(t, "schema", schema(t, db), schema(t, open(t, options(t, fresh(t, url)))))
		})
	}
}

// fresh returns the URL of a new database of the same kind.
func fresh(t *testing.T, url string) string {
	t.Helper()
	if strings.HasPrefix(url, "sqlite:") {
		return liteURL(t)
	}
	return postgres.Database(t)
}

func fixtureContent() (Device, *Changes) {
	d := Device{
		DeviceID: "A", State: DeviceOurs, Ed25519: "ed", Curve25519: "curve", Olm: []byte("olm"), KeysUploaded: true,
		FallbackChangedAt: at(4), Token: secretString("syt_token"), Meta: json.RawMessage(`{"x":1}`),
	}
	return d, everything()
}

func writeFixture(t *testing.T) {
	t.Helper()
	db := open(t, options(t, liteURL(t)))
	acct, dev := device(t, db, alice, "A")
	d, c := fixtureContent()
	d.ID = dev.ID
	c.Device = &d
	save(t, db, acct, dev.ID, c)
	f := make(fixture)
	for table := range rowCounts(t, db) {
		err := db.reader.Query(t.Context(), "SELECT * FROM "+table, nil, func(r *sql.Rows) error {
			columns, err := r.Columns()
			if err != nil {
				return err
			}
			values, targets := make([]any, len(columns)), make([]any, len(columns))
			for i := range values {
				targets[i] = &values[i]
			}
			row := make(map[string]any)
			err = r.Scan(targets...)
			for i, v := range values {
				if b, ok := v.([]byte); ok {
					v = map[string][]byte{"bytes": b}
				}
				row[columns[i]] = v
			}
			f[table] = append(f[table], row)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	text, err := json.MarshalIndent(f, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(fixturePath(db.latest()), append(text, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
}

// load makes a database of an older version: its migrations, then the rows of its fixture.
func load(t *testing.T, url string, version int64) {
	t.Helper()
	text, err := os.ReadFile(fixturePath(version))
	if err != nil {
		t.Fatal(err)
	}
	var f fixture
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.UseNumber()
	if err := d.Decode(&f); err != nil {
		t.Fatal(err)
	}
	db, err := connect(t.Context(), options(t, url))
	if err != nil {
		t.Fatal(err)
	}
	defer closeDB(t, db)
	err = db.writer.run(t.Context(), func(ctx context.Context, x *sqlio.Tx) error {
		if _, err := x.Do(ctx, db.dialect.Words.Replace("CREATE TABLE schema_version (version {{int}} NOT NULL)")); err != nil {
			return err
		}
		for _, name := range migrations[:version] {
			if err := db.apply(ctx, x, name); err != nil {
				return err
			}
		}
		return f.insert(ctx, x)
	})
	if err != nil {
		t.Fatal(err)
	}
	settle(t, db, version)
}

// insert fills the tables, those first that others refer to.
func (f fixture) insert(ctx context.Context, x *sqlio.Tx) error {
	order := []string{"accounts", "devices"}
	for table := range f {
		if !slices.Contains(order, table) {
			order = append(order, table)
		}
	}
	for _, table := range order {
		if _, err := x.Do(ctx, "DELETE FROM "+table); err != nil { // what a migration has put into it
			return fmt.Errorf("%s: %w", table, err)
		}
		for _, row := range f[table] {
			var columns, marks []string
			var params []any
			for name, v := range row {
				columns = append(columns, name)
				marks = append(marks, fmt.Sprintf("$%d", len(columns)))
				params = append(params, fixtureValue(v))
			}
			_, err := x.Do(ctx, "INSERT INTO "+table+" ("+strings.Join(columns, ", ")+") VALUES ("+strings.Join(marks, ", ")+")", params...)
			if err != nil {
				return fmt.Errorf("%s: %w", table, err)
			}
		}
	}
	return nil
}

func fixtureValue(v any) any {
	switch v := v.(type) {
	case json.Number:
		n, _ := v.Int64() // the fixture has nothing but integers
		return n
	case map[string]any:
		text, _ := v["bytes"].(string) // null when there are none
		b, _ := base64.StdEncoding.DecodeString(text)
		return append([]byte{}, b...)
	default:
		return v
	}
}

// settle makes the place and the mark those of this machine, as if the database had been made here.
func settle(t *testing.T, db *DB, version int64) {
	t.Helper()
	var m restoreMark
	err := db.writer.run(t.Context(), func(ctx context.Context, x *sqlio.Tx) error {
		place, err := db.place(ctx, x)
		if err != nil {
			return err
		}
		err = x.Rows(ctx, "SELECT incarnation, generation FROM restore_mark", nil, func(r *sql.Rows) error {
			return r.Scan(&m.incarnation, &m.generation)
		})
		if err != nil {
			return err
		}
		if version >= leaseVersion {
			return db.updateRestoreMark(ctx, x, m, place)
		}
		_, err = x.Do(ctx, "UPDATE restore_mark SET place = $1", place)
		return err
	})
	if err == nil && db.mark != nil {
		err = db.mark.set(m)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// schema describes tables and indexes.
func schema(t *testing.T, db *DB) []string {
	t.Helper()
	query := "SELECT type || ' ' || name || ' ' || coalesce(sql, '') FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY 1"
	if db.dialect.SharedPool {
		query = `SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable FROM information_schema.columns
			WHERE table_schema = 'public' UNION SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1`
	}
	var all []string
	for _, v := range column(t, db, query) {
		all = append(all, string(v))
	}
	return all
}

// TestMigrationFilesAreListed: a file that is not in the list would never run.
func TestMigrationFilesAreListed(t *testing.T) {
	t.Parallel()
	files, err := migrationFiles.ReadDir("migrations")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for i, f := range files {
		names = append(names, f.Name())
		if !strings.HasPrefix(f.Name(), fmt.Sprintf("%04d_", i+1)) {
			t.Errorf("%s is not number %d", f.Name(), i+1)
		}
	}
	if diff := cmp.Diff(migrations, names); diff != "" {
		t.Error(diff)
	}
}
