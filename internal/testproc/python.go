package testproc

import (
	"context"
	"path/filepath"
	"time"
)

// Python returns the interpreter of an environment with the requirements of test/python. It
// is made the first time on a machine.
func Python(ctx context.Context) (string, error) {
	return PythonWith(ctx, "venv", filepath.Join("test", "python"))
}

// PythonWith is Python for the requirements in another folder of the repository; name is
// that of the environment in the cache.
func PythonWith(ctx context.Context, name, folder string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	if err := DependOn(root, folder); err != nil {
		return "", err
	}
	requirements := filepath.Join(root, folder, "requirements.txt")
	dir, err := Cached(name, []string{requirements}, func(dir string) error {
		const deadline = 15 * time.Minute
		if err := Run(ctx, deadline, dir, nil, "python3", "-m", "venv", dir); err != nil {
			return err
		}
		return Run(ctx, deadline, dir, nil, filepath.Join(dir, "bin", "python"),
			"-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements)
	})
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "bin", "python"), nil
}
