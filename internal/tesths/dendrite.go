package tesths

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"text/template"

	"e2ee-proxy/internal/testproc"
)

//go:embed dendrite.yaml.tmpl
var dendriteConfig string

// Dendrite starts a Dendrite for this test. It is built the first time on a machine.
func Dendrite(t testproc.TB) *Homeserver {
	t.Helper()
	binary, err := buildDendrite(t.Context())
	if err != nil {
		testproc.Missing(t, "Dendrite", err)
	}
	dir := t.TempDir()
	h, err := launch(t, "dendrite", func(port int) (func() *exec.Cmd, error) {
		return configureDendrite(dir, binary, port)
	})
	if err != nil {
		t.Fatalf("start Dendrite: %v", err)
	}
	return h
}

func buildDendrite(ctx context.Context) (string, error) {
	return testproc.GoProgram(ctx, filepath.Join("test", "dendrite"), "github.com/element-hq/dendrite/cmd/dendrite")
}

func configureDendrite(dir, binary string, port int) (func() *exec.Cmd, error) {
	if err := writeMatrixKey(filepath.Join(dir, "matrix_key.pem")); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "dendrite.yaml")
	if err := writeTemplate(config, dendriteConfig, map[string]any{
		"Dir": dir, "ServerName": ServerName, "Secret": sharedSecret,
	}); err != nil {
		return nil, err
	}
	return func() *exec.Cmd {
		cmd := exec.Command(binary, "-config", config, "-really-enable-open-registration",
			"-http-bind-address", fmt.Sprintf("127.0.0.1:%d", port),
			"-https-bind-address", "127.0.0.1:0")
		cmd.Dir = dir
		return cmd
	}, nil
}

// writeMatrixKey makes a server signing key in the form Dendrite reads.
func writeMatrixKey(name string) error {
	seed := make([]byte, 32)
	// Read of crypto/rand never fails.
	_, _ = rand.Read(seed)
	block := &pem.Block{
		Type: "MATRIX PRIVATE KEY", Headers: map[string]string{"Key-ID": "ed25519:test"}, Bytes: seed,
	}
	return os.WriteFile(name, pem.EncodeToMemory(block), 0o600)
}

func writeTemplate(name, text string, data any) error {
	tmpl, err := template.New(filepath.Base(name)).Option("missingkey=error").Parse(text)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := tmpl.Execute(f, data); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
