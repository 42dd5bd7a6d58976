package compose

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"e2ee-proxy/internal/testproc"
)

// redis returns the arguments of a program of Redis with the port that it has here.
func (m *machine) redis(name string, args []string) []string {
	m.t.Helper()
	args = slices.Clone(args)
	i := slices.Index(args, "6379")
	if i < 0 {
		m.t.Fatalf("%s does not say at which port it listens", name)
	}
	_, args[i], _ = strings.Cut(m.address["redis:6379"], ":")
	return args
}

// balancer returns HAProxy with the configuration that is mounted, in which only addresses differ.
func (m *machine) balancer(name string) *exec.Cmd {
	m.t.Helper()
	folder := m.project.Services[name].Volumes[0].Source
	text, err := os.ReadFile(filepath.Join(folder, "haproxy.cfg"))
	if err != nil {
		m.t.Fatal(err)
	}
	var out strings.Builder
	replaced := 0
	for line := range strings.Lines(string(text)) {
		for _, replica := range []string{"proxy-a", "proxy-b"} {
			_, health, _ := strings.Cut(m.address[replica+":8010"], ":")
			there := strings.ReplaceAll(line, replica+":8009 check port 8010", m.address[replica+":8009"]+" check port "+health)
			if there != line {
				replaced++
			}
			line = there
		}
		out.WriteString(strings.ReplaceAll(line, "bind :8009", "bind "+m.address[name+":8009"]))
	}
	if replaced != 2 {
		m.t.Fatalf("%s has %d replicas behind it", name, replaced)
	}
	file := filepath.Join(m.t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(file, []byte(out.String()), 0o600); err != nil {
		m.t.Fatal(err)
	}
	return exec.CommandContext(m.t.Context(), "haproxy", "-db", "-f", file)
}

// The profile gateway is two replicas behind a load balancer, with PostgreSQL and Redis: the
// same conversation is held there, and goes on when one of them is gone.
func TestGatewayConversation(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"haproxy", "redis-server"} {
		if _, err := exec.LookPath(program); err != nil {
			testproc.Missing(t, program, err)
		}
	}
	const password = "a password of the test"
	p := read(t, []string{"TRIAL_PASSWORD=" + password, "POSTGRES_PASSWORD=hunter2", "REDIS_PASSWORD=hunter3"}, "gateway")
	delete(p.Services, "proxy") // of the other profile
	client := p.Services["client"]
	delete(client.DependsOn, "proxy")
	m := newMachine(t, p, "homeserver:8008", "proxy-a:8009", "proxy-a:8010", "proxy-a:8011", "proxy-b:8009", "proxy-b:8010", "proxy-b:8011", "redis:6379", "balancer:8009")
	m.secrets["master_key"], m.secrets["cluster"] = randomKey(t), randomKey(t)
	m.startAll()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := testproc.Await(ctx, testproc.Answers("http://"+m.address["balancer:8009"]+"/_matrix/client/versions")); err != nil {
		t.Fatal(err)
	}
	m.converse("balancer:8009", password)
	if err := m.processes["proxy-a"].Stop(stopDeadline); err != nil {
		t.Error(err)
	}
	m.converse("balancer:8009", password)
}
