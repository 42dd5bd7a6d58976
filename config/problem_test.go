package config

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/internal/rules"
)

func TestAllProblemsAtOnceWithPlaces(t *testing.T) {
	t.Parallel()
	yaml := `homeserver: ftp://user:hunter2@h.example
lissten: 127.0.0.1:1
log:
  level: loud
  level: info
  format: [json]
limits: {upload: 4MB, sends: 0, idle_timeout: 30}
trusted_proxies: [10.0.0.0/8, nginx]
policy:
  send: {mode: enforce, enforce_from: 2026-12-01}
  bridges: [bridge]
clients: {show_encryption_state: yes, undecryptable: show, key_wait: 1h}
trust_cache:
data:
accounts:
  bot: {recovery_key: a, passphrase: b}
`
	env := []string{"E2EE_PROXY_LOG_LEVL=info", "E2EE_PROXY_DATABASE_URL=mysql://root:hunter2@h", "E2EE_PROXY_MASTER_KEY_KEY=hunter2"}
	_, err := load(t, yaml, env, "--ops-listen", "8010")
	want := []string{
		"proxy.yaml:1:13: homeserver: is not an absolute http or https URL; write it like https://matrix.example.org",
		"proxy.yaml:2:1: lissten: is not a setting; did you mean listen?",
		`proxy.yaml:4:10: log.level: "loud" is not a possible value; choose one of: info, debug, warn, error`,
		"proxy.yaml:5:3: log.level: is given twice; keep one of them",
		"proxy.yaml:6:11: log.format: must be a single value; write it on one line, after the colon",
		`proxy.yaml:7:18: limits.upload: "4MB" is not a size; write it like 512KiB, 4MiB or 1GiB`,
		`proxy.yaml:7:47: limits.idle_timeout: "30" is not a duration; write it like 30s, 10m or 1h`,
		`proxy.yaml:8:31: trusted_proxies[1]: "nginx" is neither an address nor a network; write it like 10.0.0.1, 10.0.0.0/8 or fd00::/8`,
		`proxy.yaml:12:34: clients.show_encryption_state: "yes" is neither true nor false; write true or false`,
		`proxy.yaml:12:54: clients.undecryptable: "show" is not a possible value; choose one of: hold, placeholder, event`,
		`proxy.yaml:14:6: data: has no value; set one, or remove the key; "" is an empty text`,
		"E2EE_PROXY_LOG_LEVL: is not a setting; did you mean E2EE_PROXY_LOG_LEVEL?",
		"E2EE_PROXY_MASTER_KEY_KEY: master_key.key: is not a key: it must be 32 bytes in base64; make one with: openssl rand -base64 32",
		`--ops-listen: ops_listen: "8010" is not an address with a port; write it like 127.0.0.1:8009 or [::1]:8009`,
		"E2EE_PROXY_DATABASE_URL: database.url: is neither PostgreSQL nor SQLite; write it like postgres://user@host/name or sqlite:/var/lib/e2ee-proxy/e2ee-proxy.db",
		"proxy.yaml:7:30: limits.sends: must be greater than zero; remove it to get the default",
		`proxy.yaml:16:3: accounts.bot: is not a user ID; write it like "@bot:example.org", in quotes`,
		"proxy.yaml:16:3: accounts.bot: has a recovery key and a passphrase; keep the recovery key",
		`proxy.yaml:11:13: policy.bridges[0]: "bridge" is not a user ID; write it like "@bridge:example.org", in quotes`,
		"proxy.yaml:10:39: policy.send.enforce_from: has no effect unless mode is warn; set mode: warn, or remove the date",
		"proxy.yaml:12:70: clients.key_wait: must be between 0s and 30s; remove it to get the default",
	}
	if diff := cmp.Diff(want, problems(t, err)); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	// requirement of the house: no secret in an error (attack 59).
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a secret is in the error:\n%v", err)
	}
}

// Mistakes in rules are reported with all others, at the place where they are.
func TestMistakesInRules(t *testing.T) {
	t.Parallel()
	yaml := `homeserver: https://h.example
policy:
  groups:
    - {name: staff, users: ["*:h.example"], user: x}
  rules:
    - name: outsiders
      effect: deny
      when:
        direction: [send_keys]
        servers: [evil.example]
        group: [stuff]
        room_public: maybe
    - effect: alow
      when: {}
    - when: deny
`
	_, err := load(t, yaml, nil)
	want := []string{
		"proxy.yaml:4:45: policy.groups[0].user: is not a setting; did you mean users?",
		"proxy.yaml:10:9: policy.rules[0].when.servers: is not a setting; did you mean server?",
		`proxy.yaml:12:22: policy.rules[0].when.room_public: "maybe" is neither true nor false; write true or false`,
		"proxy.yaml:15:13: policy.rules[2].when: must be a group of settings; write its keys on lines of their own, indented",
		"proxy.yaml:6:7: policy.rules[0].reason: is missing; say in words for a person why it is denied",
		`proxy.yaml:9:21: policy.rules[0].when.direction[0]: "send_keys" is not known; write one of: send_key, show_message, secret`,
		`proxy.yaml:11:17: policy.rules[0].when.group[0]: "stuff" is not a group; name one of policy.groups`,
		"proxy.yaml:13:7: policy.rules[1].name: is missing; name it, like: outsiders",
		`proxy.yaml:13:15: policy.rules[1].effect: "alow" is not known; write one of: deny, allow`,
		"proxy.yaml:13:7: policy.rules[1].reason: is missing; say in words for a person why it is denied",
		"proxy.yaml:15:7: policy.rules[2].name: is missing; name it, like: outsiders",
		`proxy.yaml:15:7: policy.rules[2]: is never reached: "" is about everything; move that rule to the end, or say when it holds`,
		"proxy.yaml:15:7: policy.rules[2].effect: is missing; write deny or allow",
		"proxy.yaml:15:7: policy.rules[2].reason: is missing; say in words for a person why it is denied",
	}
	if diff := cmp.Diff(want, problems(t, err)); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

// Rules are read as they are written, also from a variable.
func TestRules(t *testing.T) {
	t.Parallel()
	yes := true
	want := []rules.Rule{
		{Name: "staff", Effect: "allow", When: rules.When{UserGroup: []string{"staff"}}},
		{Name: "outsiders", Effect: "deny", When: rules.When{Direction: []string{"send_key"}, RoomPublic: &yes}, Reason: "Only staff."},
	}
	const text = `[{name: staff, effect: allow, when: {user_group: [staff]}}, {name: outsiders, effect: deny, when: {direction: [send_key], room_public: true}, reason: Only staff.}]`
	const groups = "policy: {groups: [{name: staff, users: ['@*:h.example']}]}\nhomeserver: https://h.example\n"
	if diff := cmp.Diff(want, mustLoad(t, groups, []string{"E2EE_PROXY_POLICY_RULES=" + text}).Policy.Rules); diff != "" {
		t.Errorf("rules of a variable (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, mustLoad(t, strings.Replace(groups, "]}]}", "]}], rules: "+text+"}", 1), nil).Policy.Rules); diff != "" {
		t.Errorf("rules of the file (-want +got):\n%s", diff)
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		yaml string
		env  []string
		args []string
		want string
	}{
		"nothing set":                            {want: "homeserver: is missing; set it in the file, as E2EE_PROXY_HOMESERVER or with --homeserver https://matrix.example.org"},
		"a share of memory that is all and more": {yaml: "homeserver: https://h\nlimits: {body_memory: 32MiB}\n", want: "limits.body_memory_per_user: is more than limits.body_memory, 32MiB; set it to less, or limits.body_memory to more"},
		"a share of memory for nothing":          {yaml: "homeserver: https://h\nlimits: {body_memory_per_user: 1MiB}\n", want: "limits.body_memory_per_user: is less than the largest request needs; set it to 16MiB or more"},
		"a share of the disk that is too large":  {yaml: "homeserver: https://h\nlimits: {spool_disk_per_user: 8GiB}\n", want: "limits.spool_disk_per_user: is more than limits.spool_disk, 4GiB"},
		"no room on the disk":                    {yaml: "homeserver: https://h\nlimits: {spool_disk: 0}\n", want: "limits.spool_disk: must be greater than zero"},
		"not YAML":                               {yaml: "a: b: c", want: "is not YAML"},
		"two documents":                          {yaml: "homeserver: https://h\n---\na: b\n", want: "more than one YAML document"},
		"alias":                                  {yaml: "data: &x y\nlisten: *x\n", want: "aliases are not supported"},
		"not a group":                            {yaml: "log: info\n", want: "log: must be a group of settings"},
		"not a list":                             {yaml: "policy: {bridges: '@b:h'}\n", want: "policy.bridges: must be a list"},
		"file and direct":                        {yaml: "database: {url: 'sqlite:x', url_file: y}\n", want: "is given directly and as a file"},
		"file missing":                           {yaml: "database: {url_file: /nonexistent/x}\n", want: "database.url_file: cannot open /nonexistent/x: no such file or directory"},
		"config missing":                         {env: []string{"E2EE_PROXY_CONFIG=/nonexistent/x"}, want: "x: cannot open /nonexistent/x"},
		"variable twice":                         {env: []string{"E2EE_PROXY_DATA=a", "E2EE_PROXY_DATA_FILE=/dev/null"}, want: "E2EE_PROXY_DATA_FILE: data: is given directly and as a file"},
		"flag twice":                             {args: []string{"--data", "a", "--data", "b"}, want: "--data: data: is given twice"},
		"postgres, no key":                       {env: []string{"E2EE_PROXY_DATABASE_URL=postgres://h/d"}, want: "master_key.key: is needed with PostgreSQL"},
		"short key":                              {env: []string{"E2EE_PROXY_MASTER_KEY_KEY=QUJD"}, want: "is not a key: it must be 32 bytes"},
		"previous without":                       {yaml: "master_key: {previous: [{}]}\n", want: "master_key.previous[0].key: is missing"},
		"same address":                           {args: []string{"--ops-listen", "127.0.0.1:8009"}, want: "ops_listen: is the same address as listen"},
		"no data directory":                      {args: []string{"--data", ""}, want: "data: is empty"},
		"user in a map":                          {yaml: "accounts: {'@a:h': {recovery: x}}\n", want: "accounts.@a:h.recovery: is not a setting"},
		"null secret":                            {yaml: "database: {url: }\n", want: "database.url: has no value"},
		"no CA file":                             {args: []string{"--upstream-ca-file", "/nonexistent/x"}, want: "upstream.ca_file: cannot open /nonexistent/x"},
		"no certificate":                         {args: []string{"--upstream-ca-file", "/dev/null"}, want: "upstream.ca_file: has no certificate"},
		"no proxy to announce clients":           {yaml: "homeserver: https://h\nlisten_proxy_protocol: true\n", want: "listen_proxy_protocol: has no effect without trusted_proxies; name the servers that send the header"},
		"not a header":                           {yaml: "homeserver: https://h\nforwarded_header: x-real-ip\n", want: `forwarded_header: "x-real-ip" is not a possible value; choose one of: x-forwarded-for, forwarded`},
		"homeserver password":                    {args: []string{"--homeserver", "https://u:hunter2@h"}, want: "must not contain a user name"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := load(t, c.yaml, c.env, c.args...)
			if got := strings.Join(problems(t, err), "\n"); !strings.Contains(got, c.want) || strings.Contains(got, "hunter2") {
				t.Errorf("problems:\n%s\nwant: %s", got, c.want)
			}
		})
	}
}

// A configuration that is printed by accident shows no secret (attack 59).
func TestPrintingShowsNoSecret(t *testing.T) {
	t.Parallel()
	cfg := mustLoad(t, "accounts: {'@a:h': {passphrase: hunter2}}\n",
		[]string{"E2EE_PROXY_HOMESERVER=https://h", "E2EE_PROXY_DATABASE_URL=postgres://u:hunter2@h/d", "E2EE_PROXY_MASTER_KEY_KEY=" + testKey})
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		got := fmt.Sprintf(verb, *cfg)
		for _, hidden := range []string{"hunter2", testKey, "000102030405", "68756e746572", "0x1, 0x2", " 1 2 3 4 5"} {
			if strings.Contains(got, hidden) {
				t.Errorf("%s shows a secret", verb)
			}
		}
	}
}
