package testproc

import (
	"context"
	"fmt"
	"path/filepath"
	"time"
)

// GoProgram returns a program that was built from the module in a folder of the repository,
// whose go.mod and go.sum name its version, and whose sources may lie beside them; without
// cgo, so that nothing but Go is needed. It is built the first time on a machine.
func GoProgram(ctx context.Context, folder, pkg string, flags ...string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	name, module := filepath.Base(folder), filepath.Join(root, folder)
	if err := DependOn(root, folder); err != nil {
		return "", err
	}
	sources, err := filepath.Glob(filepath.Join(module, "*.go"))
	if err != nil {
		return "", fmt.Errorf("look for sources in %s: %w", folder, err)
	}
	keys := append([]string{filepath.Join(module, "go.mod"), filepath.Join(module, "go.sum")}, sources...)
	dir, err := Cached(name, keys, func(dir string) error {
		args := append([]string{"build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, name)}, flags...)
		return Run(ctx, 15*time.Minute, module, []string{"CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off"}, "go", append(args, pkg)...)
	})
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, name), nil
}
