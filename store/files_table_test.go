package store

import (
	"testing"
	"time"
)

// Files are found by their URIs, by their account alone, until they expire; what is used stays.
func TestFiles(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		ctx := t.Context()
		acct := must[*Account](t)(db.Account(ctx, alice))
		other := must[*Account](t)(db.Account(ctx, "@bob:hs"))
		now := db.now().Truncate(time.Microsecond).UTC()
		file := func(uri string, expires time.Time) File {
			return File{URI: uri, Value: []byte("value of " + uri), CreatedAt: now, ExpiresAt: expires}
		}
		used, unused, gone := file("mxc://hs/used", now.Add(time.Hour)), file("mxc://hs/unused", now.Add(time.Hour)), file("mxc://hs/gone", now.Add(-time.Hour))
		save(t, db, acct, 0, &Changes{Files: []File{used, unused, gone}})
		all := []string{used.URI, unused.URI, gone.URI, "mxc://hs/never", used.URI}
		same(t, "files", must[map[string]File](t)(db.Files(ctx, acct, all)), map[string]File{used.URI: used, unused.URI: unused})
		same(t, "files of another account", must[map[string]File](t)(db.Files(ctx, other, all)), map[string]File{})

		// What is kept does not replace what is there; what is sent is in use, until its event is redacted.
		save(t, db, acct, 0, &Changes{NewFiles: []File{{URI: used.URI, Value: []byte("another"), CreatedAt: now}}, SentFiles: []string{used.URI}, SentFilesIn: "$event"})
		used.ExpiresAt, used.Sent = time.Time{}, true
		same(t, "prune", must[int64](t)(db.PruneFiles(ctx, now.Add(2*time.Hour), 100)), int64(2))
		same(t, "files in use", must[map[string]File](t)(db.Files(ctx, acct, all)), map[string]File{used.URI: used})
		save(t, db, acct, 0, &Changes{Files: []File{used}}) // a clear copy was made
		save(t, db, acct, 0, &Changes{RedactedFiles: "$other", FilesExpireAt: now.Add(time.Minute)})
		same(t, "another event redacted", must[map[string]File](t)(db.Files(ctx, acct, all)), map[string]File{used.URI: used})
		save(t, db, acct, 0, &Changes{RedactedFiles: "$event", FilesExpireAt: now.Add(time.Minute)})
		used.ExpiresAt = now.Add(time.Minute)
		same(t, "redacted", must[map[string]File](t)(db.Files(ctx, acct, all)), map[string]File{used.URI: used})
		save(t, db, acct, 0, &Changes{UsedFiles: []string{used.URI}})
		same(t, "prune what is used again", must[int64](t)(db.PruneFiles(ctx, now.Add(2*time.Hour), 100)), int64(0))

		// Of too many the oldest go, of this account only.
		save(t, db, other, 0, &Changes{Files: []File{file("mxc://hs/theirs", time.Time{})}})
		for i := range 3 {
			f := file("mxc://hs/"+string(rune('a'+i)), time.Time{})
			f.CreatedAt = now.Add(time.Duration(i+1) * time.Second)
			save(t, db, acct, 0, &Changes{NewFiles: []File{f}})
		}
		same(t, "prune too many", must[int64](t)(db.PruneFiles(ctx, now, 2)), int64(2))
		left := must[map[string]File](t)(db.Files(ctx, acct, []string{used.URI, "mxc://hs/a", "mxc://hs/b", "mxc://hs/c"}))
		same(t, "left", len(left), 2)
		if _, ok := left["mxc://hs/c"]; !ok {
			t.Error("the newest is gone")
		}
		if err := db.DeleteAccount(ctx, acct); err != nil {
			t.Fatal(err)
		}
		same(t, "rows", len(column(t, db, "SELECT ref FROM files")), 1)
	})
}
