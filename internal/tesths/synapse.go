package tesths

import (
	_ "embed"
	"fmt"
	"os/exec"
	"path/filepath"

	"e2ee-proxy/internal/testproc"
)

//go:embed synapse.yaml.tmpl
var synapseConfig string

//go:embed synapse_log.yaml
var synapseLogging string

// Synapse starts a Synapse for this test. Its Python environment is made the first
// time on a machine.
func Synapse(t testproc.TB) *Homeserver {
	t.Helper()
	return SynapseWith(t, "")
}

// SynapseWith is Synapse with further settings. In them {{.Port}} is where it listens.
func SynapseWith(t testproc.TB, settings string) *Homeserver {
	t.Helper()
	python, err := testproc.Python(t.Context())
	if err != nil {
		testproc.Missing(t, "Synapse", err)
	}
	dir := t.TempDir()
	h, err := launch(t, "synapse", func(port int) (func() *exec.Cmd, error) {
		return configureSynapse(dir, python, port, settings)
	})
	if err != nil {
		t.Fatalf("start Synapse: %v", err)
	}
	return h
}

func configureSynapse(dir, python string, port int, settings string) (func() *exec.Cmd, error) {
	config := filepath.Join(dir, "homeserver.yaml")
	if err := writeTemplate(config, synapseConfig+settings, map[string]any{
		"Dir": dir, "ServerName": ServerName, "Secret": sharedSecret, "Port": port,
	}); err != nil {
		return nil, err
	}
	if err := writeTemplate(filepath.Join(dir, "log.yaml"), synapseLogging, nil); err != nil {
		return nil, err
	}
	keys := exec.Command(python, "-m", "synapse.app.homeserver", "-c", config, "--generate-missing-configs")
	keys.Dir = dir
	if out, err := keys.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("generate keys: %w\n%s", err, out)
	}
	return func() *exec.Cmd {
		cmd := exec.Command(python, "-m", "synapse.app.homeserver", "-c", config)
		cmd.Dir = dir
		return cmd
	}, nil
}
