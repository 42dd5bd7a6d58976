package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// All mistakes about Redis are reported at once, each at its place, and no password with them.
func TestMistakesAboutRedis(t *testing.T) {
	t.Parallel()
	const url = "redis.url: "
	for name, c := range map[string]struct {
		yaml string
		want []string
	}{
		"not an address": {"redis: {url: 'http://hunter2@h'}\n", []string{
			"proxy.yaml:2:14: " + url + "does not begin with redis://, rediss://, redis+sentinel://, rediss+sentinel://, redis+cluster://, rediss+cluster:// or unix://; docs/gateway.md has an example for each way that Redis runs",
		}},
		"no host": {"redis: {url: 'redis://:hunter2@'}\n", []string{
			"proxy.yaml:2:14: " + url + "has a host that is not HOST or HOST:PORT; docs/gateway.md has an example for each way that Redis runs",
		}},
		"files without TLS": {"redis: {url: 'redis://h', ca_file: x, cert_file: y, timeout: 0s}\n", []string{
			"proxy.yaml:2:62: redis.timeout: must be more than 0s and at most 5s; remove it to get the default",
			"proxy.yaml:2:36: redis.ca_file: has no effect without TLS; write rediss:// instead of redis:// in redis.url, or remove it",
			"proxy.yaml:2:50: redis.cert_file: has no effect without TLS; write rediss:// instead of redis:// in redis.url, or remove it",
			"proxy.yaml:2:50: redis.cert_file: and redis.key_file belong together; set both, or remove both",
		}},
		"files that are none": {"redis: {url: 'rediss://h', ca_file: /dev/null, cert_file: /nonexistent/c, key_file: /nonexistent/k}\n", []string{
			"proxy.yaml:2:37: redis.ca_file: has no certificate; name a file with certificates in PEM form",
			"proxy.yaml:2:59: redis.cert_file: cannot open /nonexistent/c: no such file or directory; check the path and who may read it",
		}},
		"files without a Redis": {"redis: {ca_file: x}\n", []string{
			"proxy.yaml:2:18: redis.ca_file: has no effect without TLS; write rediss:// instead of redis:// in redis.url, or remove it",
		}},
		"right": {"redis: {url: 'rediss+sentinel://u:hunter2@a,b/main', timeout: 50ms}\n", nil},
		"none":  {"", nil},
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
				t.Errorf("the password is in %q", got)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
