package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Rules of this file:
//   - An older build is measured by its own benchmarks, in turn with today's, on the same machine:
//     what a machine does meanwhile falls on both.
//   - A row that the older one had not has no ratio to it.

// checkout is a tree of sources whose benchmarks can be run.
type checkout struct {
	dir    string
	remove func() error
}

// older returns the sources that old names: a folder that has them, or a revision, for which a
// folder is made. What has been made is removed by remove.
func older(ctx context.Context, old string) (c checkout, err error) {
	if _, err := os.Stat(filepath.Join(old, "go.mod")); err == nil {
		return checkout{old, func() error { return nil }}, nil
	}
	dir, err := os.MkdirTemp("", "e2ee-proxy-bench-")
	if err != nil {
		return c, err
	}
	c = checkout{filepath.Join(dir, "old"), func() error {
		_ = exec.Command("git", "worktree", "remove", "--force", filepath.Join(dir, "old")).Run() // what is left goes with the folder
		return os.RemoveAll(dir)
	}}
	said, err := exec.CommandContext(ctx, "git", "worktree", "add", "--detach", c.dir, old, "--").CombinedOutput()
	if err != nil {
		return checkout{}, errors.Join(fmt.Errorf("%q is neither a folder with sources nor a revision: %w: %s", old, err, strings.TrimSpace(string(said))), c.remove())
	}
	return c, nil
}

// measureBoth runs the benchmarks of an older build and of this one, in turn.
func measureBoth(ctx context.Context, old string, count int, progress io.Writer) (before, now string, err error) {
	c, err := older(ctx, old)
	if err != nil {
		return "", "", err
	}
	defer func() { err = errors.Join(err, c.remove()) }()
	var outputs [2]strings.Builder
	for range count {
		for _, p := range processes {
			for i, dir := range []string{c.dir, "."} {
				if err := p.run(ctx, dir, 1, &outputs[i], progress); err != nil {
					return "", "", err
				}
			}
		}
	}
	return outputs[0].String(), outputs[1].String(), nil
}
