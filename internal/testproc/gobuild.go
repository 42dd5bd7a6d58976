package testproc

import (
	"context"
	"path/filepath"
	"time"
)

// GoProgram returns a program that was built from the module in a folder of the repository,
// whose go.mod and go.sum name its version; without cgo, so that nothing but Go is needed.
// It is built the first time on a machine.
func GoProgram(ctx context.Context, folder, pkg string, flags ...string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	name, module := filepath.Base(folder), filepath.Join(root, folder)
	if err := DependOn(root, folder); err != nil {
		return "", err
	}
	keys := []string{filepath.Join(module, "go.mod"), filepath.Join(module, "go.sum")}
	dir, err := Cached(name, keys, func(dir string) error {
		args := append([]string{"build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, name)}, flags...)
		return Run(ctx, 15*time.Minute, module, []string{"CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off"}, "go", append(args, pkg)...)
	})
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, name), nil
}
