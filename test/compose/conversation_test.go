package compose

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpg"
	"e2ee-proxy/internal/testproc"
)

// stopDeadline is how long a program may take to stop.
const stopDeadline = 45 * time.Second

// patience is how long a program may take to get well.
const patience = 2 * time.Minute

// machine runs the services of a project as programs of this machine.
type machine struct {
	t       *testing.T
	project project
	image   dockerfile
	python  string
	binary  string
	address map[string]string // of "service:port", as others of the project say it
	folders map[string]string // of volumes
	up      map[string]bool
	// postgres stands for the image of that name, and database is the URL of its database.
	postgres testpg.Server
	database string
	secrets  map[string]string // files, by name

	processes map[string]*testproc.Process // of what goes on
	alice     tesths.Account               // at the homeserver itself
}

// start starts the services that a service waits for, and the service.
func (m *machine) start(name string) {
	m.t.Helper()
	if m.up[name] {
		return
	}
	m.up[name] = true
	s, ok := m.project.Services[name]
	if !ok {
		m.t.Fatalf("there is no service %s", name)
	}
	for _, before := range slices.Sorted(maps.Keys(s.DependsOn)) {
		m.start(before)
		switch condition := s.DependsOn[before].Condition; condition {
		case "service_healthy":
			m.awaitHealthy(before)
		case "service_completed_successfully": // it has been run to its end
		default:
			m.t.Fatalf("%s waits for %s to be %q", name, before, condition)
		}
	}
	switch {
	case strings.HasPrefix(s.Image, "nginx:"):
		m.serveFolder(name)
	case strings.HasPrefix(s.Image, "postgres:"):
		m.database = m.postgres.Database(m.t)
	case strings.HasPrefix(s.Image, "haproxy:"):
		m.run(name, m.balancer(name))
	case m.runsOnce(name):
		if out, err := m.command(name).CombinedOutput(); err != nil {
			m.t.Fatalf("%s: %v\n%s", name, err, out)
		}
		m.afterwards(name)
	default:
		m.run(name, m.command(name))
	}
}

// run starts a program that goes on.
func (m *machine) run(name string, cmd *exec.Cmd) {
	m.t.Helper()
	process, err := testproc.Start(m.t, name, cmd)
	if err != nil {
		m.t.Fatal(err)
	}
	m.processes[name] = process
}

// runsOnce reports whether somebody waits for the end of a service.
func (m *machine) runsOnce(name string) bool {
	for _, s := range m.project.Services {
		if s.DependsOn[name].Condition == "service_completed_successfully" {
			return true
		}
	}
	return false
}

// command returns the program of a service with its arguments and its environment.
func (m *machine) command(name string) *exec.Cmd {
	m.t.Helper()
	s := m.project.Services[name]
	args := slices.Concat(s.Entrypoint, s.Command)
	switch {
	case s.Build != nil:
		if len(args) == 0 {
			args = slices.Concat(m.image.entrypoint, m.image.cmd)
		}
		return m.exec(name, append([]string{m.binary}, args[1:]...), m.image.env)
	case strings.HasPrefix(s.Image, "redis:"):
		return m.exec(name, m.redis(name, args), nil)
	case len(s.Entrypoint) > 0:
		args[0] = filepath.Join(filepath.Dir(m.python), args[0])
		return m.exec(name, args, nil)
	}
	return m.exec(name, m.synapse(s), nil)
}

// synapse returns what the image's own program runs (docker/start.py of Synapse), which differs
// from it in nothing but that it listens on this machine only.
func (m *machine) synapse(s service) []string {
	m.t.Helper()
	run := []string{m.python, "-m", "synapse.app.homeserver", "--config-path", "/data/homeserver.yaml"}
	switch {
	case len(s.Command) == 0:
		return run
	case slices.Equal(s.Command, []string{"generate"}):
		env := s.env()
		return append(run, "--generate-config", "--server-name", env["SYNAPSE_SERVER_NAME"], "--report-stats", env["SYNAPSE_REPORT_STATS"],
			"--config-directory", "/data", "--data-directory", "/data")
	}
	m.t.Fatalf("the image of Synapse does not know %q", s.Command)
	return nil
}

// afterwards gives the homeserver that was set up the port that it has here.
func (m *machine) afterwards(name string) {
	m.t.Helper()
	if name != "homeserver-setup" {
		return
	}
	file := m.here(name, "/data/homeserver.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		m.t.Fatal(err)
	}
	_, port, _ := strings.Cut(m.address["homeserver:8008"], ":")
	moved := strings.ReplaceAll(string(text), "port: 8008", "port: "+port)
	if moved == string(text) {
		m.t.Fatalf("the homeserver that was set up does not listen on port 8008:\n%s", text)
	}
	if err := os.WriteFile(file, []byte(moved), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) exec(name string, args []string, base map[string]string) *exec.Cmd {
	m.t.Helper()
	for i := 1; i < len(args); i++ {
		args[i] = m.here(name, args[i])
	}
	env := environment(base, m.project.Services[name].env())
	for i := range env {
		variable, value, _ := strings.Cut(env[i], "=")
		env[i] = variable + "=" + m.here(name, value)
	}
	cmd := exec.CommandContext(m.t.Context(), args[0], args[1:]...)
	cmd.Env = append(env, "PATH="+os.Getenv("PATH"), "HOME="+m.t.TempDir())
	cmd.Dir = m.t.TempDir()
	return cmd
}

// here translates what is said in a container of a service: addresses and folders.
func (m *machine) here(name, text string) string {
	for place, address := range m.address {
		service, port, _ := strings.Cut(place, ":")
		if service == name {
			text = strings.ReplaceAll(text, "0.0.0.0:"+port, address)
			text = strings.ReplaceAll(text, "127.0.0.1:"+port, address)
		}
		text = strings.ReplaceAll(text, place, address)
		for _, p := range m.project.Services[service].Ports {
			if fmt.Sprint(p.Target) == port {
				text = strings.ReplaceAll(text, "127.0.0.1:"+p.Published, address)
			}
		}
	}
	if strings.HasPrefix(text, "postgres://") {
		return m.database
	}
	for _, file := range m.project.Services[name].Secrets {
		text = strings.ReplaceAll(text, "/run/secrets/"+file.Source, m.secrets[file.Source])
	}
	for _, v := range m.project.Services[name].Volumes {
		if text == v.Target || strings.HasPrefix(text, v.Target+"/") {
			return m.folder(v.Source) + strings.TrimPrefix(text, v.Target)
		}
	}
	return text
}

func (m *machine) folder(volume string) string {
	if m.folders[volume] == "" {
		m.folders[volume] = testproc.FastDir(m.t)
	}
	return m.folders[volume]
}

// awaitHealthy runs the health check of a service until it succeeds.
func (m *machine) awaitHealthy(name string) {
	m.t.Helper()
	s := m.project.Services[name]
	if strings.HasPrefix(s.Image, "postgres:") {
		return // it answers since it was started
	}
	if s.Healthcheck == nil || len(s.Healthcheck.Test) < 2 || s.Healthcheck.Test[0] != "CMD" {
		m.t.Fatalf("%s has no health check", name)
	}
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	var last []byte
	err := testproc.Await(ctx, func(context.Context) (err error) {
		args, base := slices.Clone(s.Healthcheck.Test[1:]), map[string]string(nil)
		switch {
		case s.Build != nil:
			args[0], base = m.binary, m.image.env
		case strings.HasPrefix(s.Image, "redis:"):
			args = m.redis(name, args)
		}
		last, err = m.exec(name, args, base).CombinedOutput()
		return err
	})
	if err != nil {
		m.t.Fatalf("%s does not get well: %v\n%s", name, err, last)
	}
}

// serveFolder serves what nginx serves: the files that are mounted there.
func (m *machine) serveFolder(name string) {
	m.t.Helper()
	for _, v := range m.project.Services[name].Volumes {
		if v.Target == "/usr/share/nginx/html" {
			server := httptest.NewServer(http.FileServer(http.Dir(v.Source)))
			m.t.Cleanup(server.Close)
			m.address[name+":80"] = strings.TrimPrefix(server.URL, "http://")
			return
		}
	}
	m.t.Fatalf("%s serves nothing", name)
}

// newMachine prepares a machine with free ports for the services of a project.
func newMachine(t *testing.T, p project, places ...string) *machine {
	t.Helper()
	if _, err := exec.LookPath("curl"); err != nil { // of the homeserver's health check
		testproc.Missing(t, "curl", err)
	}
	python, err := testproc.Python(t.Context())
	if err != nil {
		testproc.Missing(t, "Synapse", err)
	}
	binary := filepath.Join(t.TempDir(), "e2ee-proxy")
	if err := testproc.Run(t.Context(), 15*time.Minute, root(t), []string{"CGO_ENABLED=0"}, "go", "build", "-o", binary, "./cmd/e2ee-proxy"); err != nil {
		t.Fatal(err)
	}
	ports, err := testproc.FreePorts(len(places))
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{
		t: t, project: p, image: readDockerfile(t), python: python, binary: binary,
		address: make(map[string]string), folders: make(map[string]string), up: make(map[string]bool), secrets: make(map[string]string),
		processes: make(map[string]*testproc.Process),
	}
	for i, place := range places {
		m.address[place] = fmt.Sprintf("127.0.0.1:%d", ports[i])
	}
	t.Cleanup(func() {
		if err := m.postgres.Stop(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// startAll starts every service.
func (m *machine) startAll() {
	m.t.Helper()
	for _, name := range slices.Sorted(maps.Keys(m.project.Services)) {
		m.start(name)
	}
}

// converse has two users talk through a client that knows nothing of encryption, and fails
// unless the homeserver has ciphertext of it.
func (m *machine) converse(proxy, password string) {
	m.t.Helper()
	node, _, err := testproc.Node(m.t.Context())
	if err != nil {
		testproc.Missing(m.t, "Node", err)
	}
	talk := exec.CommandContext(m.t.Context(), node, filepath.Join(root(m.t), "test", "compose", "talk.mjs"),
		"http://"+m.address["client:80"], "http://"+m.address[proxy], password)
	var errs strings.Builder
	talk.Stderr = &errs
	out, err := talk.Output()
	if err != nil {
		m.t.Fatalf("they cannot talk: %v\n%s", err, errs.String())
	}
	var said struct{ Room, Event string }
	if err := json.Unmarshal(out, &said); err != nil {
		m.t.Fatal(err)
	}
	homeserver := tesths.Client{URL: "http://" + m.address["homeserver:8008"]}
	if m.alice.AccessToken == "" { // once: the homeserver bounds logins
		if m.alice, err = homeserver.Login(m.t.Context(), "alice", password, ""); err != nil {
			m.t.Fatal(err)
		}
	}
	stored, err := homeserver.As(m.alice).Event(m.t.Context(), said.Room, said.Event)
	if err != nil || stored.Type != "m.room.encrypted" || strings.Contains(string(stored.Raw), "hello") {
		m.t.Errorf("the homeserver stores %s, %v", stored.Raw, err)
	}
}

// What `docker compose up` starts on a fresh machine is a place where two users talk, with a
// client that knows nothing of encryption, in a room that is encrypted; and nobody else can
// register there.
func TestComposeConversation(t *testing.T) {
	t.Parallel()
	const password = "a password of the test"
	m := newMachine(t, read(t, []string{"TRIAL_PASSWORD=" + password}), "homeserver:8008", "proxy:8009", "proxy:8010")
	m.startAll()
	m.converse("proxy:8009", password)
	for _, at := range []string{"homeserver:8008", "proxy:8009"} {
		resp, err := tesths.Client{URL: "http://" + m.address[at]}.Do(t.Context(), http.MethodPost, "/_matrix/client/v3/register",
			map[string]any{"username": "mallory", "password": "mallory's password"})
		if err != nil || resp.Status != http.StatusForbidden {
			t.Errorf("registering at %s: %d %s, %v", at, resp.Status, resp.Body, err)
		}
	}
	// A second start finds the users that it made.
	for _, name := range []string{"alice", "bob"} {
		if out, err := m.command(name).CombinedOutput(); err != nil {
			t.Errorf("making %s again: %v\n%s", name, err, out)
		}
	}
}
