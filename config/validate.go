package config

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/rules"
)

// validate checks what involves more than the type of one value. It changes nothing.
func (l *loader) validate(c *Config, offline bool) {
	if _, set := l.origin["homeserver"]; c.Homeserver.IsZero() && !l.reported("homeserver") && !offline {
		what := "is missing"
		if set {
			what = "is empty"
		}
		l.problemAt("homeserver", what, "set it in the file, as E2EE_PROXY_HOMESERVER or with --homeserver https://matrix.example.org")
	}
	l.address("listen", c.Listen)
	if c.OpsListen != "" {
		l.address("ops_listen", c.OpsListen)
		if c.OpsListen == c.Listen && !strings.HasSuffix(c.Listen, ":0") {
			l.problemAt("ops_listen", "is the same address as listen", "choose another port, or \"\" to switch it off")
		}
	}
	l.console(c)
	if c.Data == "" {
		l.problemAt("data", "is empty", "name a directory")
	}
	l.controlSocket(c.ControlSocket)
	l.database(c)
	l.masterKey(c.MasterKey)
	l.limits(c.Upstream, c.Limits)
	if c.Upstream.CAFile != "" && !offline {
		l.certificates("upstream.ca_file", c.Upstream.CAFile)
	}
	if c.ListenProxyProtocol && len(c.TrustedProxies) == 0 && !l.reported("trusted_proxies") {
		l.problemAt("listen_proxy_protocol", "has no effect without trusted_proxies", "name the servers that send the header in trusted_proxies")
	}
	if c.TLS.On() && !offline {
		l.certificatePair(c.TLS)
	}
	l.cluster(c, offline)
	l.redis(c, offline)
	l.accounts(c)
	l.administrators(c)
	l.policy(c.Policy)
	l.decisionPoint(&c.Policy.DecisionPoint, offline)
	l.clients(c.Clients)
	l.positive("search.max_messages", int64(c.Search.MaxMessages))
	l.positive("trust_cache.users", int64(c.TrustCache.Users))
	if c.Audit.Keep < 0 && !l.reported("audit.keep") {
		l.problemAt("audit.keep", "must not be negative", "write it like 8760h, or 0s to keep all records")
	}
}

// maxKeyWait is the longest time that clients may wait for keys: some time out soon after.
const maxKeyWait = 30 * time.Second

func (l *loader) clients(c Clients) {
	if (c.KeyWait < 0 || c.KeyWait > maxKeyWait) && !l.reported("clients.key_wait") {
		l.problemAt("clients.key_wait", "must be between 0s and 30s", "remove it to get the default")
	}
}

// maxSocketPath is the longest path that a socket can have on every system, in bytes.
const maxSocketPath = 103

func (l *loader) controlSocket(path string) {
	if len(path) > maxSocketPath {
		l.problemAt("control_socket", fmt.Sprintf("is longer than %d bytes, which no socket can have", maxSocketPath), "name a shorter path, such as /run/e2ee-proxy/control.sock, or off")
	}
}

// ControlSocketPath returns where the socket of the control API is; empty if there is none.
func (c *Config) ControlSocketPath() string {
	switch c.ControlSocket {
	case "":
		return filepath.Join(c.Data, "control.sock")
	case "off":
		return ""
	}
	return c.ControlSocket
}

func (l *loader) console(c *Config) {
	at := c.Console.Listen
	if at != "" {
		l.address("console.listen", at)
		if (at == c.Listen || at == c.OpsListen) && !strings.HasSuffix(at, ":0") {
			l.problemAt("console.listen", "is the same address as another listener's", "choose another port, or remove it to have the console on listen")
		}
		if !c.Console.Enabled {
			l.problemAt("console.listen", "has no effect without the console", "remove it, or set console.enabled: true")
		}
	}
	if c.Console.URL.URL().Path != "" && !l.reported("console.url") {
		l.problemAt("console.url", "must not have a path", "write it like https://console.example.org; the console is below it, under /_e2ee_proxy/console")
	}
}

// problemAt reports a problem of a setting at the place where it was set.
func (l *loader) problemAt(path, what, do string) { l.problem(l.origin[path], path, what, do) }

// nearestOrigin is where a setting was set or, when it is missing, what it is a part of.
func (l *loader) nearestOrigin(path string) string {
	for path != "" {
		if where, set := l.origin[path]; set {
			return where
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return ""
}

// reported reports whether the value itself was already found wrong.
func (l *loader) reported(path string) bool {
	for _, p := range l.problems {
		if p.Setting == path {
			return true
		}
	}
	return false
}

func (l *loader) positive(path string, n int64) {
	if n <= 0 && !l.reported(path) {
		l.problemAt(path, "must be greater than zero", "remove it to get the default")
	}
}

func (l *loader) address(path, addr string) {
	_, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		l.problemAt(path, fmt.Sprintf("%q is not an address with a port", addr), "write it like 127.0.0.1:8009 or [::1]:8009")
	}
}

func (l *loader) database(c *Config) {
	url := c.Database.URL.Reveal()
	switch path, sqlite := strings.CutPrefix(url, "sqlite:"); {
	case url == "":
	case sqlite && path != "":
	case strings.HasPrefix(url, "postgres://"), strings.HasPrefix(url, "postgresql://"):
		if c.MasterKey.Key.IsZero() && !l.reported("master_key.key") {
			l.problemAt("master_key.key", "is needed with PostgreSQL", "make one with: openssl rand -base64 32; and set master_key.key_file")
		}
	default:
		l.problemAt("database.url", "is neither PostgreSQL nor SQLite", "write it like postgres://user@host/name or sqlite:/var/lib/e2ee-proxy/e2ee-proxy.db")
	}
}

func (l *loader) certificates(path, file string) {
	switch pem, err := readRaw(file); {
	case err != nil:
		l.problemAt(path, err.Error(), "check the path and who may read it")
	case !x509.NewCertPool().AppendCertsFromPEM(pem):
		l.problemAt(path, "has no certificate", "name a file with certificates in PEM form")
	}
}

// certificatePair checks that there is a certificate and a key that fits.
func (l *loader) certificatePair(t TLS) {
	const cert, key = "tls.cert_file", "tls.key_file"
	switch {
	case t.CertFile == "":
		l.problemAt(cert, "is missing beside "+key, "name the file with the certificate, or remove "+key)
	case t.KeyFile == "":
		l.problemAt(key, "is missing beside "+cert, "name the file with the private key, or remove "+cert)
	default:
		l.keyPair(cert, t.CertFile, key, t.KeyFile)
	}
}

// keyPair checks that a certificate and a key go together.
func (l *loader) keyPair(cert, certFile, key, keyFile string) {
	certPEM, err := readRaw(certFile)
	if err != nil {
		l.problemAt(cert, err.Error(), "check the path and who may read it")
		return
	}
	keyPEM, err := readRaw(keyFile)
	if err != nil {
		l.problemAt(key, err.Error(), "check the path and who may read it")
		return
	}
	// The error names what is wrong, and nothing of the key.
	if _, err := tls.X509KeyPair(certPEM, keyPEM); err != nil {
		l.problemAt(cert, "does not go with "+key+": "+err.Error(), "name a certificate and its private key, both in PEM form")
	}
}

func (l *loader) masterKey(m MasterKey) {
	for i, p := range m.Previous {
		at := fmt.Sprintf("master_key.previous[%d]", i)
		if p.Key.IsZero() && !l.reported(at+".key") {
			l.problem(l.origin[at], at+".key", "is missing", "set key_file to the file with the key, or remove the entry")
		}
	}
}

func (l *loader) limits(u Upstream, m Limits) {
	for _, s := range []struct {
		path string
		n    int64
	}{
		{"upstream.connect_timeout", int64(u.ConnectTimeout)},
		{"upstream.timeout", int64(u.Timeout)},
		{"upstream.federation_timeout", int64(u.FederationTimeout)},
		{"upstream.sync_timeout", int64(u.SyncTimeout)},
		{"limits.upload", int64(m.Upload)},
		{"limits.sends", int64(m.Sends)},
		{"limits.sends_per_device", int64(m.SendsPerDevice)},
		{"limits.syncs", int64(m.Syncs)},
		{"limits.syncs_per_device", int64(m.SyncsPerDevice)},
		{"limits.sync_wait", int64(m.SyncWait)},
		{"limits.logins", int64(m.Logins)},
		{"limits.media", int64(m.Media)},
		{"limits.body_memory", int64(m.BodyMemory)},
		{"limits.body_memory_per_user", int64(m.BodyMemoryPerUser)},
		{"limits.spool_disk", int64(m.SpoolDisk)},
		{"limits.spool_disk_per_user", int64(m.SpoolDiskPerUser)},
		{"limits.header_timeout", int64(m.HeaderTimeout)},
		{"limits.keep_alive_timeout", int64(m.KeepAliveTimeout)},
		{"limits.idle_timeout", int64(m.IdleTimeout)},
		{"limits.drain_timeout", int64(m.DrainTimeout)},
	} {
		l.positive(s.path, s.n)
	}
	l.checkShare("limits.body_memory_per_user", m.BodyMemoryPerUser, "limits.body_memory", m.BodyMemory)
	l.checkShare("limits.spool_disk_per_user", m.SpoolDiskPerUser, "limits.spool_disk", m.SpoolDisk)
	const path = "limits.body_memory_per_user"
	if m.BodyMemoryPerUser > 0 && m.BodyMemoryPerUser < minBodyMemory && !l.reported(path) {
		l.problemAt(path, "is less than the largest request needs", "set it to "+minBodyMemory.String()+" or more")
	}
}

// minBodyMemory is what a user needs for the largest request that is decoded.
const minBodyMemory Size = 16 << 20

// checkShare checks that one user gets no more than there is for all.
func (l *loader) checkShare(path string, one Size, of string, all Size) {
	if one > all && all > 0 && !l.reported(path) && !l.reported(of) {
		l.problemAt(path, "is more than "+of+", "+all.String(), "set it to less, or "+of+" to more")
	}
}

func (l *loader) accounts(c *Config) {
	for _, user := range slices.Sorted(maps.Keys(c.Accounts)) {
		a, at := c.Accounts[user], "accounts."+string(user)
		if !isUserID(user) {
			l.problemAt(at, "is not a user ID", "write it like \"@bot:example.org\", in quotes")
		}
		if !a.RecoveryKey.IsZero() && !a.Passphrase.IsZero() {
			l.problemAt(at, "has a recovery key and a passphrase", "keep the recovery key")
		}
	}
}

// minToken is how long a token must be, so that nobody guesses it.
const minToken = 16

func (l *loader) administrators(c *Config) {
	for i, user := range c.Administrators {
		if at := fmt.Sprintf("administrators[%d]", i); !isUserID(user) {
			l.problemAt(at, fmt.Sprintf("%q is not a user ID", user), "write it like \"@admin:example.org\", in quotes")
		}
	}
	if n := len(c.OpsToken.Reveal()); n > 0 && n < minToken {
		l.problemAt("ops_token", fmt.Sprintf("has fewer than %d characters", minToken), "make one: openssl rand -hex 32")
	}
	if !c.OpsToken.IsZero() && c.OpsListen == "" {
		l.problemAt("ops_token", "has no effect without ops_listen", "set ops_listen, or remove it")
	}
}

func (l *loader) policy(p Policy) {
	for i, user := range p.Bridges {
		if at := fmt.Sprintf("policy.bridges[%d]", i); !isUserID(user) {
			l.problemAt(at, fmt.Sprintf("%q is not a user ID", user), "write it like \"@bridge:example.org\", in quotes")
		}
	}
	_, problems := rules.Compile(p.Rules, p.Groups)
	if !p.CedarFile.IsZero() {
		_, bad := new(rules.Set).WithCedar(p.CedarFile.Path(), p.CedarFile.Text(), nil)
		problems = append(problems, bad...)
	}
	_, more := rules.Compile(p.TrialRules, p.Groups)
	if !p.TrialCedarFile.IsZero() {
		_, bad := new(rules.Set).WithCedar(p.TrialCedarFile.Path(), p.TrialCedarFile.Text(), nil)
		more = append(more, bad...)
	}
	for _, bad := range more {
		if !strings.HasPrefix(bad.Path, "groups") { // the groups' are there already
			bad.Path = "trial_" + bad.Path
			problems = append(problems, bad)
		}
	}
	for _, bad := range problems {
		at := "policy." + bad.Path
		if !l.reported(at) {
			l.problem(l.nearestOrigin(at), at, bad.What, bad.Do)
		}
	}
	l.rollout("policy.send", p.Send)
	l.rollout("policy.receive", p.Receive)
	l.rollout("policy.native", p.Native)
}

func (l *loader) rollout(path string, r Rollout) {
	if !r.EnforceFrom.IsZero() && r.Mode != Warn {
		l.problemAt(path+".enforce_from", "has no effect unless mode is warn", "set mode: warn, or remove the date")
	}
}

// isUserID checks the outer form that every server name and historical localpart has.
func isUserID(user id.UserID) bool {
	localpart, server, err := user.Parse()
	return err == nil && localpart != "" && server != "" && len(user) <= 255 && !strings.ContainsAny(string(user), " \t\r\n")
}
