package files

import (
	"context"
	"fmt"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/attachment"
	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/store"
)

const (
	// keepUnused is how long a file is known that its owner has uploaded and not named, and
	// keepRedacted one whose event was redacted.
	keepUnused   = 24 * time.Hour
	keepRedacted = time.Hour
	// maxSeen is how many files are remembered that are stored for certain.
	maxSeen = 16384
)

// Seen remembers files of all accounts that were shown lately, so that showing them again asks
// nothing.
type Seen struct{ files *lru.Cache[seenKey, string] }

type seenKey struct {
	tenure uint64 // of the account
	uri    string
}

// NewSeen returns an empty memory.
func NewSeen() (*Seen, error) {
	files, err := lru.New[seenKey, string](maxSeen)
	if err != nil {
		return nil, fmt.Errorf("make the memory of files: %w", err)
	}
	return &Seen{files}, nil
}

func (s *Seen) get(tenure uint64, uri string) (string, bool) {
	return s.files.Get(seenKey{tenure, uri})
}

func (s *Seen) add(tenure uint64, uri, shown string) { s.files.Add(seenKey{tenure, uri}, shown) }

// forget makes the next show ask whether files are stored.
func (s *Seen) forget() { s.files.Purge() }

// Account is what an account knows of encrypted files. It has no state of its own but in the
// database.
type Account struct {
	*core.Account
	seen *Seen
}

// NewAccount returns the files of an account.
func NewAccount(of *core.Account, seen *Seen) Account { return Account{of, seen} }

// lookup is Lookup by the URIs under which files are stored.
func (a *Account) lookup(ctx context.Context, uris []string) (map[string]attachment.File, error) {
	rows, err := a.Env.Store.Files(ctx, a.Row, uris)
	if err != nil {
		return nil, err //nolint:wrapcheck // it says what failed
	}
	all := make(map[string]attachment.File, len(rows))
	for uri := range rows {
		row := rows[uri]
		f, err := attachment.Decode(row.Value)
		if err != nil {
			return nil, err
		}
		f.Sent = row.Sent || row.ExpiresAt.IsZero()
		all[uri] = f
	}
	return all, nil
}

// row returns a file as it is stored.
func (a *Account) row(uri string, f *attachment.File, expires time.Time) (store.File, error) {
	value, err := f.Encode()
	if err != nil {
		return store.File{}, fmt.Errorf("encode a file: %w", err)
	}
	return store.File{URI: uri, Value: value, CreatedAt: a.Env.Now(), ExpiresAt: expires}, nil
}

func (a *Account) save(ctx context.Context, c *store.Changes) error {
	if err := a.Env.Store.Save(ctx, a.Row, 0, c); err != nil {
		return fmt.Errorf("store files: %w", err)
	}
	for _, f := range c.NewFiles {
		f.Value.Wipe()
	}
	for _, f := range c.Files {
		f.Value.Wipe()
	}
	return nil
}

// Add stores a file that the account has uploaded, or is about to when it is Reserved. It is
// forgotten unless it is used. Where the file lies is what the homeserver says: if that is the
// place of another file, [attachment.ErrNamedTwice] is returned, and what the place means stays. Who names
// the other one would give away this one.
func (a *Account) Add(ctx context.Context, f attachment.File) error {
	row, err := a.row(f.URL, &f, a.Env.Now().Add(keepUnused))
	if err != nil {
		return err
	}
	before, err := a.Lookup(ctx, []string{f.URL})
	if err != nil {
		return err
	}
	if before[f.URL].Reserved && !f.Reserved { // what the place was reserved for
		return a.save(ctx, &store.Changes{Files: []store.File{row}})
	}
	if err := a.save(ctx, &store.Changes{NewFiles: []store.File{row}}); err != nil {
		return err
	}
	after, err := a.Lookup(ctx, []string{f.URL})
	if err != nil {
		return err
	}
	if now := after[f.URL]; now.Key != f.Key || now.Reserved != f.Reserved {
		return attachment.ErrNamedTwice
	}
	return nil
}

// Changed stores what was found out about a file: where it is in clear, or its thumbnail.
func (a *Account) Changed(ctx context.Context, uri string, f attachment.File) error {
	row, err := a.row(a.known(uri), &f, time.Time{})
	if err != nil {
		return err
	}
	return a.save(ctx, &store.Changes{Files: []store.File{row}})
}

// Use keeps files that an event is about to name.
func (a *Account) Use(ctx context.Context, uris []string) error {
	return a.save(ctx, &store.Changes{UsedFiles: a.allKnown(uris)})
}

// Sent stores in which event files are.
func (a *Account) Sent(ctx context.Context, uris []string, in id.EventID) error {
	return a.save(ctx, &store.Changes{SentFiles: a.allKnown(uris), SentFilesIn: in})
}

// Redacted lets the account's own files expire whose event was redacted.
func (a *Account) Redacted(ctx context.Context, event id.EventID) error {
	a.seen.forget()
	return a.save(ctx, &store.Changes{RedactedFiles: event, FilesExpireAt: a.Env.Now().Add(keepRedacted)})
}
