package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"e2ee-proxy/internal/secret"
)

// Inspection makes [Load] check what the settings name as well, as `config check` does:
// whether recovery keys have the right checksum, whether folders exist, and who else may
// write to files and folders. It changes nothing, and talks to nobody.
type Inspection struct {
	// RecoveryKey reports whether a recovery key's checksum is right.
	RecoveryKey func(secret.String) bool
}

// namedFile is a file that a setting names.
type namedFile struct{ where, setting, file string }

// Permissions of those who are not the owner.
const (
	othersRead          fs.FileMode = 0o004
	othersWrite         fs.FileMode = 0o002
	groupOrOthersWrite  fs.FileMode = 0o022
	groupOrOthersAccess fs.FileMode = 0o077
)

func (l *loader) inspect(c *Config, i Inspection) {
	for _, user := range slices.Sorted(maps.Keys(c.Accounts)) {
		key, at := c.Accounts[user].RecoveryKey, "accounts."+string(user)+".recovery_key"
		if !key.IsZero() && !i.RecoveryKey(key) {
			l.problemAt(at, "is not a recovery key, or one with a mistake in it: its checksum is wrong", "copy it again, with or without the spaces")
		}
	}
	if c.Upstream.CAFile != "" {
		l.named = append(l.named, namedFile{l.origin["upstream.ca_file"], "upstream.ca_file", c.Upstream.CAFile})
	}
	if c.TLS.On() {
		l.named = append(l.named, namedFile{l.origin["tls.cert_file"], "tls.cert_file", c.TLS.CertFile}, namedFile{l.origin["tls.key_file"], "tls.key_file", c.TLS.KeyFile})
		l.checkReaders(namedFile{l.origin["tls.key_file"], "tls.key_file", c.TLS.KeyFile})
	}
	if d := &c.Policy.DecisionPoint; d.CAFile != "" {
		l.named = append(l.named, namedFile{l.origin["policy.decision_point.ca_file"], "policy.decision_point.ca_file", d.CAFile})
	}
	if t := c.Cluster.TLS; c.Cluster.On() && t.On() {
		l.named = append(l.named, namedFile{l.origin["cluster.tls.cert_file"], "cluster.tls.cert_file", t.CertFile},
			namedFile{l.origin["cluster.tls.key_file"], "cluster.tls.key_file", t.KeyFile}, namedFile{l.origin["cluster.tls.ca_file"], "cluster.tls.ca_file", t.CAFile})
		l.checkReaders(namedFile{l.origin["cluster.tls.key_file"], "cluster.tls.key_file", t.KeyFile})
	}
	for _, file := range [][2]string{{"redis.ca_file", c.Redis.CAFile}, {"redis.cert_file", c.Redis.CertFile}, {"redis.key_file", c.Redis.KeyFile}} {
		if file[1] != "" {
			l.named = append(l.named, namedFile{l.origin[file[0]], file[0], file[1]})
		}
	}
	if c.Redis.KeyFile != "" {
		l.checkReaders(namedFile{l.origin["redis.key_file"], "redis.key_file", c.Redis.KeyFile})
	}
	if !c.Policy.CedarFile.IsZero() {
		l.named = append(l.named, namedFile{l.origin["policy.cedar_file"], "policy.cedar_file", c.Policy.CedarFile.Path()})
	}
	if !c.Policy.TrialCedarFile.IsZero() {
		l.named = append(l.named, namedFile{l.origin["policy.trial_cedar_file"], "policy.trial_cedar_file", c.Policy.TrialCedarFile.Path()})
	}
	for _, f := range l.named {
		l.checkGuarded(f)
		l.checkGuarded(namedFile{f.where, f.setting, filepath.Dir(f.file)})
	}
	l.checkDataFolder(c.Data)
	if path, ok := strings.CutPrefix(c.Database.URL.Reveal(), "sqlite:"); ok {
		l.checkDatabaseFolder(filepath.Dir(path))
	}
}

// checkGuarded reports files that everybody on the machine could replace: whoever can write to a
// file with a secret, or to its folder, chooses the secret. In a sticky folder only owners
// can replace files.
func (l *loader) checkGuarded(f namedFile) {
	info, err := os.Stat(f.file)
	if err != nil || runtime.GOOS == "windows" { // unreadable files are reported elsewhere; Windows has no such modes
		return
	}
	mode := info.Mode()
	if mode.Perm()&othersWrite != 0 && mode&fs.ModeSticky == 0 && (mode.IsDir() || mode.IsRegular()) {
		l.problemOnce(f.where, f.setting, "everybody on this machine may write to "+f.file, "run: chmod o-w "+f.file)
	}
}

// checkReaders reports a private key that everybody on this machine may read. A group may:
// that is how programs with different users share a certificate.
func (l *loader) checkReaders(f namedFile) {
	info, err := os.Stat(f.file)
	if err == nil && runtime.GOOS != "windows" && info.Mode().Perm()&othersRead != 0 && !l.reported(f.setting) {
		l.problem(f.where, f.setting, "everybody on this machine may read "+f.file, "run: chmod o-r "+f.file)
	}
}

// checkDataFolder checks the folder of the database and the master key or, if it does not exist
// yet, its parent.
func (l *loader) checkDataFolder(folder string) {
	if folder == "" || l.reported("data") {
		return
	}
	where := l.origin["data"]
	info, err := os.Stat(folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		for parent := filepath.Dir(filepath.Clean(folder)); ; parent = filepath.Dir(parent) {
			if _, err := os.Stat(parent); err == nil || parent == filepath.Dir(parent) {
				l.checkGuarded(namedFile{where, "data", parent})
				return
			}
		}
	case err != nil:
		l.problemAt("data", fmt.Sprintf("cannot look at %s: %v", folder, pathlessError(err)), "name another folder, or let the proxy's user reach this one")
	case !info.IsDir():
		l.problemAt("data", folder+" is not a folder", "name a folder")
	case runtime.GOOS != "windows" && info.Mode().Perm()&groupOrOthersWrite != 0:
		l.problemAt("data", "others may write to "+folder, "run: chmod 700 "+folder)
	default:
		l.checkMasterKeyFile(filepath.Join(folder, "master.key"))
	}
}

// checkMasterKeyFile checks the generated key, if there is one: serve refuses one that others
// may read.
func (l *loader) checkMasterKeyFile(file string) {
	info, err := os.Stat(file)
	if err == nil && runtime.GOOS != "windows" && info.Mode().Perm()&groupOrOthersAccess != 0 {
		l.problemAt("data", "others may read "+file, "run: chmod 600 "+file)
	}
}

// checkDatabaseFolder checks the folder of an SQLite database, which must exist.
func (l *loader) checkDatabaseFolder(folder string) {
	info, err := os.Stat(folder)
	switch {
	case err != nil:
		l.problemAt("database.url", fmt.Sprintf("cannot look at the database's folder: %v", pathlessError(err)), "make the folder, or name another one")
	case !info.IsDir():
		l.problemAt("database.url", "the database's folder is not a folder", "name another one")
	default:
		l.checkGuarded(namedFile{l.origin["database.url"], "database.url", folder})
	}
}

// problemOnce reports a problem that several settings share at the first of them.
func (l *loader) problemOnce(where, path, what, do string) {
	if !slices.ContainsFunc(l.problems, func(p Problem) bool { return p.What == what }) {
		l.problem(where, path, what, do)
	}
}
