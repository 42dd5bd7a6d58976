package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// All mistakes of a replica are reported at once, each at its place, and no secret with them.
func TestMistakesOfAReplica(t *testing.T) {
	t.Parallel()
	const secret = "a-short-hunter2"
	for name, c := range map[string]struct {
		yaml string
		want []string
	}{
		"nothing but the listener": {"cluster: {listen: '127.0.0.1:8009'}\n", []string{
			"proxy.yaml:2:19: cluster.listen: is the same address as listen; choose another port",
			"cluster.advertise: is missing; set the URL at which the other replicas reach this one, such as http://10.0.0.1:8011",
			"cluster.secret: is missing, and so is cluster.tls: replicas must recognise each other; make one with: openssl rand -base64 32; and set cluster.secret_file",
			"database.url: is not PostgreSQL, which replicas share; set the URL of a PostgreSQL database, or remove cluster.listen",
			"master_key.key: is needed for replicas: all must have the same; make one with: openssl rand -base64 32; and set master_key.key_file",
		}},
		"all of it wrong": {"cluster: {listen: here, advertise: 'https://0.0.0.0:1', secret: " + secret + ", tls: {cert_file: x}}\ndatabase: {url: 'postgres://h/d'}\n", []string{
			"master_key.key: is needed with PostgreSQL; make one with: openssl rand -base64 32; and set master_key.key_file",
			`proxy.yaml:2:19: cluster.listen: "here" is not an address with a port; write it like 127.0.0.1:8009 or [::1]:8009`,
			"proxy.yaml:2:36: cluster.advertise: is an address to listen on, not one to connect to; name this machine as the other replicas reach it",
			"proxy.yaml:2:65: cluster.secret: is shorter than 32 characters; make one with: openssl rand -base64 32",
			"cluster.tls.key_file: is missing: TLS between replicas takes a certificate, its key and the authority; name the file, or remove the others",
			"cluster.tls.ca_file: is missing: TLS between replicas takes a certificate, its key and the authority; name the file, or remove the others",
		}},
		"https without tls": {clustered("https://r1:1", ""), []string{
			"proxy.yaml:2:44: cluster.advertise: is https, but cluster.tls is not set; set cluster.tls, or write it like http://10.0.0.1:8011",
		}},
		"a path": {clustered("http://r1:1/x", ""), []string{
			"proxy.yaml:2:44: cluster.advertise: has a path; write it like http://10.0.0.1:8011",
		}},
		"files that are none": {clustered("https://r1:1", ", tls: {cert_file: /nonexistent/c, key_file: /nonexistent/k, ca_file: /dev/null}"), []string{
			"proxy.yaml:2:119: cluster.tls.cert_file: cannot open /nonexistent/c: no such file or directory; check the path and who may read it",
			"proxy.yaml:2:170: cluster.tls.ca_file: has no certificate; name a file with certificates in PEM form",
		}},
		"without the listener": {"cluster: {advertise: 'http://r1:1', secret: " + secret + ", tls: {ca_file: x}}\n", []string{
			"proxy.yaml:2:22: cluster.advertise: has no effect without cluster.listen; set cluster.listen, or remove it",
			"proxy.yaml:2:45: cluster.secret: has no effect without cluster.listen; set cluster.listen, or remove it",
			"proxy.yaml:2:77: cluster.tls.ca_file: has no effect without cluster.listen; set cluster.listen, or remove it",
		}},
		"right": {clustered("http://r1:1", ""), nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := load(t, "homeserver: https://h\n"+c.yaml, nil)
			if c.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			got := problems(t, err)
			if strings.Contains(strings.Join(got, "\n"), "hunter2") {
				t.Errorf("the secret is in %q", got)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

// clustered returns the settings of a replica on PostgreSQL.
func clustered(advertise, more string) string {
	return "cluster: {listen: '10.0.0.1:1', advertise: '" + advertise + "', secret: " + strings.Repeat("s", 32) + more +
		"}\ndatabase: {url: 'postgres://h/d'}\nmaster_key: {key: " + testKey + "}\n"
}
