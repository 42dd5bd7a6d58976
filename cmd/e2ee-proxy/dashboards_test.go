package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.yaml.in/yaml/v3"

	"e2ee-proxy/config"
	"e2ee-proxy/internal/testproc"
)

// exposed are the metrics that a process shows, with their labels.
func exposed(t *testing.T) (metrics map[string][]string, values map[string]bool) {
	t.Helper()
	cfg := config.Default()
	cfg.Data = t.TempDir()
	if err := cfg.Homeserver.UnmarshalText([]byte("http://127.0.0.1:1")); err != nil {
		t.Fatal(err)
	}
	cert, key := pairFiles(t)
	cfg.TLS = config.TLS{CertFile: cert, KeyFile: key}
	db, err := openStore(t.Context(), &cfg, zerolog.Nop(), new(lostAccounts))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	registry, err := newRegistry()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wire(&cfg, zerolog.Nop(), db, registry); err != nil {
		t.Fatal(err)
	}
	all := make(chan *prometheus.Desc, 4096)
	registry.Describe(all)
	close(all)
	metrics, form := make(map[string][]string), regexp.MustCompile(`fqName: "(\w+)".* constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)
	for desc := range all {
		m := form.FindStringSubmatch(desc.String())
		if m == nil {
			t.Fatalf("a metric is described as %s", desc)
		}
		for label := range strings.SplitSeq(m[2]+","+m[3], ",") {
			name, _, _ := strings.Cut(label, "=")
			metrics[m[1]] = append(metrics[m[1]], name)
		}
	}
	gathered, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values = make(map[string]bool)
	for _, family := range gathered {
		if family.GetType().String() == "HISTOGRAM" {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				metrics[family.GetName()+suffix] = append(slices.Clone(metrics[family.GetName()]), "le")
			}
		}
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				values[l.GetValue()] = true
			}
		}
	}
	return metrics, values
}

// selection is what the parser of Prometheus says that an expression reads.
type selection struct {
	Expression string
	Selectors  []struct {
		Metric   string
		Matchers []struct{ Label, Type, Value string }
	}
	Grouping []string
}

// parsed lets Prometheus's parser read expressions.
func parsed(t *testing.T, expressions []string) []selection {
	t.Helper()
	program, err := testproc.GoProgram(t.Context(), filepath.Join("test", "deploy"), ".")
	if err != nil {
		testproc.Missing(t, "the parser of Prometheus", err)
	}
	cmd := exec.CommandContext(t.Context(), program, "promql")
	var lines strings.Builder
	for _, e := range expressions {
		lines.WriteString(strings.Join(strings.Fields(e), " ") + "\n")
	}
	cmd.Stdin = strings.NewReader(lines.String())
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("Prometheus refuses an expression: %s", errs.String())
	}
	var all []selection
	for decoder := json.NewDecoder(bytes.NewReader(out)); decoder.More(); {
		var s selection
		if err := decoder.Decode(&s); err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	if len(all) != len(expressions) {
		t.Fatalf("%d expressions, %d answers", len(expressions), len(all))
	}
	return all
}

// added are labels that Prometheus adds to what it scrapes.
func added() []string { return []string{"job", "instance"} }

// check reports what an expression reads that the proxy does not show.
func (s selection) check(t *testing.T, metrics map[string][]string, values map[string]bool, code string) {
	t.Helper()
	if len(s.Selectors) == 0 {
		t.Errorf("%s reads nothing", s.Expression)
	}
	var labels []string
	for _, one := range s.Selectors {
		known, ok := metrics[one.Metric]
		if !ok && one.Metric != "up" { // which is Prometheus's own
			t.Errorf("%s reads %s, which there is not", s.Expression, one.Metric)
			continue
		}
		labels = append(labels, known...)
		for _, m := range one.Matchers {
			if !slices.Contains(known, m.Label) && !slices.Contains(added(), m.Label) {
				t.Errorf("%s selects %s by %s, which it does not have", s.Expression, one.Metric, m.Label)
			}
			if m.Type == "=" && m.Label != "job" && m.Label != "code" && !values[m.Value] && !strings.Contains(code, `"`+m.Value+`"`) {
				t.Errorf("%s: %s is never %q", s.Expression, m.Label, m.Value)
			}
		}
	}
	for _, label := range s.Grouping {
		if !slices.Contains(labels, label) && !slices.Contains(added(), label) {
			t.Errorf("%s groups by %s, which there is not", s.Expression, label)
		}
	}
}

// countingCode is the text of the code that counts, where values of labels are written out.
func countingCode(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	for _, pattern := range []string{"../../proxy/*.go", "../../cluster/*.go", "../../e2ee/internal/core/*.go", "../../e2ee/internal/gossip/*.go", "../../e2ee/internal/rollout/*.go"} {
		names, err := filepath.Glob(pattern)
		if err != nil || len(names) == 0 {
			t.Fatalf("no file is named like %s: %v", pattern, err)
		}
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			text.Write(b)
		}
	}
	return text.String()
}

// Every alert is an expression that Prometheus takes, of metrics, labels and values that there
// are, and says how bad it is and what to do.
func TestAlerts(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../deploy/prometheus/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil {
		t.Fatal(err)
	}
	var expressions []string
	seen := make(map[string]bool)
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			expressions = append(expressions, r.Expr)
			if seen[r.Alert] || !strings.HasPrefix(r.Alert, "E2EEProxy") {
				t.Errorf("an alert is named %q", r.Alert)
			}
			seen[r.Alert] = true
			if !slices.Contains([]string{"page", "ticket", "info"}, r.Labels["severity"]) || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%s does not say how bad it is, or what to do", r.Alert)
			}
		}
	}
	if len(expressions) < 10 {
		t.Fatalf("there are only %d alerts", len(expressions))
	}
	metrics, values := exposed(t)
	code := countingCode(t)
	for _, s := range parsed(t, expressions) {
		s.check(t, metrics, values, code)
	}
}

// Every panel of the dashboard shows metrics that there are, none lies on another, and every
// metric of ours is on it.
func TestDashboard(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../deploy/grafana/e2ee-proxy.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			ID      int
			Type    string
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr, LegendFormat, RefID string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	var expressions []string
	ids, taken := make(map[int]bool), make(map[[2]int]string)
	for _, p := range board.Panels {
		if ids[p.ID] || p.Title == "" || p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %d %q: its number is taken, or it has no title or shows nothing", p.ID, p.Title)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
					t.Errorf("%q lies on %q, or outside", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		for _, target := range p.Targets {
			expressions = append(expressions, strings.ReplaceAll(target.Expr, "$__rate_interval", "5m"))
		}
	}
	metrics, values := exposed(t)
	code := countingCode(t)
	shown := make(map[string]bool)
	for _, s := range parsed(t, expressions) {
		s.check(t, metrics, values, code)
		for _, one := range s.Selectors {
			shown[one.Metric] = true
		}
	}
	for name := range metrics {
		base := regexp.MustCompile("_(bucket|sum|count)$").ReplaceAllString(name, "")
		if strings.HasPrefix(name, "e2ee_proxy_") && !shown[name] && !shown[base] && !shown[base+"_bucket"] {
			t.Errorf("%s is not on the dashboard", name)
		}
	}
}
