package testproc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// The oldest Node that matrix-js-sdk runs on, and the one that is obtained when the
// machine has none that new.
const (
	nodeMajor   = 22
	nodeVersion = "22.23.3"
)

// Node returns the Node interpreter and the folder of the peer program with its
// dependencies installed. They are obtained the first time on a machine, by npm.
func Node(ctx context.Context) (interpreter, peer string, err error) {
	return NodeProgram(ctx, "peer")
}

// NodeProgram is Node for another program below test/, by the name of its folder.
func NodeProgram(ctx context.Context, folder string) (interpreter, program string, err error) {
	root, err := Root()
	if err != nil {
		return "", "", err
	}
	if interpreter, err = nodeInterpreter(ctx); err != nil {
		return "", "", err
	}
	source := filepath.Join(root, "test", folder)
	if err := DependOn(root, filepath.Join("test", folder)); err != nil {
		return "", "", err
	}
	keys := []string{filepath.Join(source, "package.json"), filepath.Join(source, "package-lock.json")}
	modules, err := Cached(folder, keys, func(dir string) error {
		for _, name := range append(keys, filepath.Join(source, ".npmrc")) {
			if err := copyFile(filepath.Join(dir, filepath.Base(name)), name); err != nil {
				return err
			}
		}
		return npm(ctx, dir, "ci", "--omit=dev")
	})
	if err != nil {
		return "", "", err
	}
	// Node looks for modules upwards from the program's folder.
	link := filepath.Join(source, "node_modules")
	if err := pointTo(link, filepath.Join(modules, "node_modules")); err != nil {
		return "", "", fmt.Errorf("install the modules of %s: %w", folder, err)
	}
	return interpreter, source, nil
}

func nodeInterpreter(ctx context.Context) (string, error) {
	if system, err := exec.LookPath("node"); err == nil && nodeIsNew(ctx, system) {
		return system, nil
	}
	dir, err := Cached("node-"+nodeVersion, nil, func(dir string) error {
		return npm(ctx, dir, "install", "--prefix", dir, "node@"+nodeVersion)
	})
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "node_modules", "node", "bin", "node"), nil
}

func nodeIsNew(ctx context.Context, node string) bool {
	out, err := exec.CommandContext(ctx, node, "--version").Output()
	if err != nil {
		return false
	}
	major, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(string(out)), "v"), ".")
	n, err := strconv.Atoi(major)
	return err == nil && n >= nodeMajor
}

func npm(ctx context.Context, dir string, args ...string) error {
	return Run(ctx, 15*time.Minute, dir, nil, "npm", append(args, "--no-audit", "--no-fund", "--no-progress")...)
}

// pointTo makes link a symbolic link to target, if it is not one already.
func pointTo(link, target string) error {
	if have, err := os.Readlink(link); err == nil && have == target {
		return nil
	}
	if err := os.RemoveAll(link); err != nil {
		return err
	}
	err := os.Symlink(target, link)
	if errors.Is(err, fs.ErrExist) {
		// Another test binary was faster; both point to the same place.
		return nil
	}
	return err
}

func copyFile(to, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		return err
	}
	return dst.Close()
}
