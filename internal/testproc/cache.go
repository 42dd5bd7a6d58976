package testproc

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// CacheVariable names the environment variable that puts the cache elsewhere than
// in .cache of the repository.
const CacheVariable = "E2EE_PROXY_TEST_CACHE"

// Root returns the root folder of the repository: the nearest folder upwards with this
// module's go.mod and a test folder.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for {
		_, errPeer := os.Stat(filepath.Join(dir, "test", "peer"))
		_, errMod := os.Stat(filepath.Join(dir, "go.mod"))
		if errPeer == nil && errMod == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("find the repository: no go.mod with test/peer beside it above the working folder")
		}
		dir = parent
	}
}

// Cached returns a folder in the cache that build has filled. It is built once for each
// name and key, however many test binaries ask at the same time; the key is made of the
// contents of the files in keyFiles. A build that fails leaves nothing behind.
func Cached(name string, keyFiles []string, build func(dir string) error) (string, error) {
	key, err := hashFiles(keyFiles)
	if err != nil {
		return "", fmt.Errorf("cache %s: %w", name, err)
	}
	cache, err := cacheDir()
	if err != nil {
		return "", fmt.Errorf("cache %s: %w", name, err)
	}
	unlock, err := lockFile(filepath.Join(cache, name+".lock"))
	if err != nil {
		return "", fmt.Errorf("cache %s: %w", name, err)
	}
	defer unlock()

	dir := filepath.Join(cache, name+"-"+key)
	done := filepath.Join(dir, ".complete")
	if _, err := os.Stat(done); err == nil {
		return dir, nil
	}
	// The folder is built in its final place: a Python environment cannot be moved.
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("cache %s: %w", name, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("cache %s: %w", name, err)
	}
	if err := build(dir); err != nil {
		return "", errors.Join(fmt.Errorf("build %s: %w", name, err), os.RemoveAll(dir))
	}
	if err := os.WriteFile(done, nil, 0o644); err != nil {
		return "", fmt.Errorf("cache %s: %w", name, err)
	}
	return dir, nil
}

// Rebuilt returns a file in the cache after build has written it. Only one test binary
// builds it at a time; build is meant to be quick when there is nothing to do.
func Rebuilt(name string, build func(file string) error) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	unlock, err := lockFile(filepath.Join(cache, name+".lock"))
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	defer unlock()
	file := filepath.Join(cache, name)
	if err := build(file); err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	return file, nil
}

// DependOn makes the go tool run a test again, instead of giving its cached result,
// when a file in these folders below root has changed: it notes which folders a test
// reads. A test that runs other programs must say so.
func DependOn(root string, folders ...string) error {
	for _, folder := range folders {
		err := filepath.WalkDir(filepath.Join(root, folder), func(_ string, _ fs.DirEntry, err error) error { return err })
		if err != nil {
			return fmt.Errorf("depend on %s: %w", folder, err)
		}
	}
	return nil
}

func cacheDir() (string, error) {
	dir := os.Getenv(CacheVariable)
	if dir == "" {
		root, err := Root()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(root, ".cache")
	}
	return dir, os.MkdirAll(dir, 0o755)
}

func hashFiles(names []string) (string, error) {
	sum := sha256.New()
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		// The length tells where one file ends and the next begins.
		sum.Write(binary.AppendUvarint(nil, uint64(len(data))))
		sum.Write(data)
	}
	return hex.EncodeToString(sum.Sum(nil))[:12], nil
}
