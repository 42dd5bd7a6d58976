package compose

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"e2ee-proxy/config"
	"e2ee-proxy/internal/testproc"
)

// project is what a Compose file says.
type project struct {
	Services map[string]service
}

type service struct {
	Image               string
	Build               *struct{ Context string }
	Entrypoint, Command []string
	Environment         map[string]*string
	Volumes             []struct{ Type, Source, Target string }
	Ports               []struct {
		HostIP    string `json:"host_ip"`
		Target    int
		Published string
	}
	Secrets     []struct{ Source string }
	DependsOn   map[string]struct{ Condition string } `json:"depends_on"`
	Healthcheck *struct{ Test []string }
}

// root is the repository.
func root(t *testing.T) string {
	t.Helper()
	dir, err := testproc.Root()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// read reads docker-compose.yml as Docker Compose does.
func read(t *testing.T, env []string, profiles ...string) project {
	t.Helper()
	if err := testproc.DependOn(root(t), "docker-compose.yml", "Dockerfile", "deploy", "test/compose"); err != nil {
		t.Fatal(err)
	}
	program, err := testproc.GoProgram(t.Context(), filepath.Join("test", "deploy"), ".")
	if err != nil {
		testproc.Missing(t, "the library of Docker Compose", err)
	}
	cmd := exec.CommandContext(t.Context(), program, append([]string{"compose", filepath.Join(root(t), "docker-compose.yml")}, profiles...)...)
	cmd.Env = env
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the file is refused: %s", errs.String())
	}
	var p project
	if err := json.Unmarshal(out, &p); err != nil {
		t.Fatal(err)
	}
	return p
}

// dockerfile is what the Dockerfile says of the image that it makes.
type dockerfile struct {
	from            []string
	env             map[string]string
	entrypoint, cmd []string
}

func readDockerfile(t *testing.T) dockerfile {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	d := dockerfile{env: make(map[string]string)}
	for line := range strings.Lines(strings.ReplaceAll(string(text), "\\\n", " ")) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "FROM":
			d.from = append(d.from, strings.Fields(rest)[0])
			d.env = make(map[string]string)
		case "ENV":
			for pair := range strings.FieldsSeq(rest) {
				name, value, _ := strings.Cut(pair, "=")
				d.env[name] = value
			}
		case "ENTRYPOINT":
			err = json.Unmarshal([]byte(rest), &d.entrypoint)
		case "CMD":
			err = json.Unmarshal([]byte(rest), &d.cmd)
		}
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	return d
}

// fixed reports whether an image has a version that stays what it is.
func fixed(image string) bool {
	return image == "scratch" || regexp.MustCompile(`:v?\d+\.\d+(\.\d+)?(-\w+)?$`).MatchString(image)
}

// randomKey makes a file with 32 random bytes, as the head of docker-compose.yml says.
func randomKey(t *testing.T) string {
	t.Helper()
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(base64.StdEncoding.EncodeToString(key)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// environment is what a program gets, as an operating system gives it.
func environment(all ...map[string]string) []string {
	merged := make(map[string]string)
	for _, one := range all {
		maps.Copy(merged, one)
	}
	var pairs []string
	for name, value := range merged {
		pairs = append(pairs, name+"="+value)
	}
	return pairs
}

func (s service) env() map[string]string {
	out := make(map[string]string)
	for name, value := range s.Environment {
		if value != nil {
			out[name] = *value
		}
	}
	return out
}

// Docker Compose takes the file, with each of its profiles; every image has a fixed version,
// nothing can be reached from other machines, and the settings of the proxy are settings.
func TestComposeFile(t *testing.T) {
	t.Parallel()
	image := readDockerfile(t)
	for _, from := range image.from {
		if !fixed(from) {
			t.Errorf("the Dockerfile begins with %s, which is another one tomorrow", from)
		}
	}
	synapse, err := os.ReadFile(filepath.Join(root(t), "test", "python", "requirements.txt"))
	if err != nil {
		t.Fatal(err)
	}
	key := randomKey(t)
	proxies := 0
	for _, profile := range []string{"", "postgres", "gateway"} {
		for name, s := range read(t, []string{"POSTGRES_PASSWORD=hunter2", "REDIS_PASSWORD=hunter3"}, profile).Services {
			if (s.Build == nil) == (s.Image == "") || s.Image != "" && !fixed(s.Image) {
				t.Errorf("%s is an image without a fixed version: %q", name, s.Image)
			}
			if version, is := strings.CutPrefix(s.Image, "matrixdotorg/synapse:v"); is && !strings.Contains(string(synapse), "matrix-synapse=="+version) && !strings.Contains(string(synapse), "matrix-synapse[all]=="+version) {
				t.Errorf("%s is Synapse %s, which is not the one that is tested with", name, version)
			}
			for _, port := range s.Ports {
				if port.HostIP != "127.0.0.1" {
					t.Errorf("%s can be reached from other machines at port %s", name, port.Published)
				}
			}
			if _, open := s.Environment["SYNAPSE_ENABLE_REGISTRATION"]; open {
				t.Errorf("%s lets anybody register", name)
			}
			if s.Build == nil {
				continue
			}
			proxies++
			own := s.env()
			for name := range own {
				if strings.HasSuffix(name, "_FILE") {
					own[name] = key
				}
			}
			if _, err := config.Load(config.Sources{Environ: environment(image.env, own)}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if proxies != 6 {
		t.Errorf("%d services are proxies", proxies)
	}
}
