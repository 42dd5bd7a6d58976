package rediscache

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/internal/testredis"
)

func TestParseAddress(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"redis://localhost":                        "1 [localhost:6379]  0 :",
		"redis://:pw@10.0.0.1:7000/3":              "1 [10.0.0.1:7000]  3 :pw",
		"rediss://proxy:p%40w@cache.example.org":   "1 [cache.example.org:6379]  0 proxy:p@w tls",
		"redis://[::1]:7000":                       "1 [[::1]:7000]  0 :",
		"redis://[::1]":                            "1 [[::1]:6379]  0 :",
		"unix:///run/redis.sock":                   "1 []/run/redis.sock  0 :",
		"unix://u:p@/run/redis.sock?database=2":    "1 []/run/redis.sock  2 u:p",
		"redis+sentinel://a,b:1,[::1]:2/main":      "2 [a:26379 b:1 [::1]:2] main 0 :",
		"rediss+sentinel://u:p@a/main/4":           "2 [a:26379] main 4 u:p tls",
		"redis+sentinel://a/m?sentinel_password=x": "2 [a:26379] m 0 : sentinel :x",
		"redis+cluster://u:p@a,b:7":                "3 [a:6379 b:7]  0 u:p",
		"redis+sentinel://a/m?sentinel_user=s&x=1": "!has a parameter that is not known",
		"redis://u@h":                              "!has a user and no password; a password alone is written like :PASSWORD@",
		"redis://a,b":                              "!names several servers, which only redis+sentinel:// and redis+cluster:// do",
		"redis://h/x":                              "!has a database that is not a number",
		"redis+cluster://h/1":                      "!names a database, which a Redis Cluster does not have",
		"redis+sentinel://h":                       "!does not say under which name the Sentinels know the master; it is written like redis+sentinel://HOST:26379/MASTER",
		"redis://":                                 "!has a host that is not HOST or HOST:PORT",
		"redis://h:x":                              "!has a host that is not HOST or HOST:PORT",
		"redis://h:1:2":                            "!has a host that is not HOST or HOST:PORT",
		"redis://h?read_timeout=1h":                "!has a parameter that is not known",
		"unix://run/redis.sock":                    "!does not name a socket; it is written like unix:///run/redis/redis.sock",
		"redis://secret%zz@h":                      "!is not a URL; special characters in the password are written like %40",
		"http://h":                                 "!does not begin with redis://, rediss://, redis+sentinel://, rediss+sentinel://, redis+cluster://, rediss+cluster:// or unix://",
		"cache.example.org:6379":                   "!is not a URL",
	} {
		a, err := ParseAddress(text)
		got := fmt.Sprintf("%d %v%s %s %d %s:%s", a.Shape, a.Hosts, a.Socket, a.Master, a.Database, a.User, a.Password.Reveal())
		if a.TLS != nil {
			got += " tls"
		}
		if !a.SentinelPassword.IsZero() {
			got += " sentinel " + a.SentinelUser + ":" + a.SentinelPassword.Reveal()
		}
		if err != nil {
			got = "!" + err.Error()
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: (-want +got):\n%s", text, diff)
		}
	}
}

// wantRefusal fails the test unless the check at the start is a refusal that says so.
func wantRefusal(t *testing.T, name string, r *replica, want string) {
	t.Helper()
	err := r.Check(t.Context())
	var refusal *RefusalError
	switch {
	case !errors.As(err, &refusal):
		t.Errorf("%s: %v is no refusal", name, err)
	case !strings.Contains(refusal.Error(), want) || refusal.Hint == "":
		t.Errorf("%s: %q (%s), want %q", name, refusal.Error(), refusal.Hint, want)
	}
}

// Attack: none, but the password is wrong, was never set or is not enough; or the settings name
// something else than they say. The start is refused, and the reason is said without the password.
func TestAttackPasswordWrong(t *testing.T) {
	t.Parallel()
	locked := startRedis(t, "--requirepass", "right")
	open := startRedis(t)
	limited := startRedis(t)
	setUser(t, limited, "proxy on >pw ~e2ee-proxy:* &e2ee-proxy:* -@all +hello +auth +ping +get +set +incr +expire +del +publish")
	host := func(s *testredis.Server) string { return s.Addr() }
	for _, c := range []struct{ name, url, want string }{
		{"wrong", "redis://:wr0ng@" + host(locked), "does not accept the user and password"},
		{"missing", "redis://" + host(locked), "does not accept the user and password"},
		{"user that does not exist", "redis://who:wr0ng@" + host(locked), "does not accept the user and password"},
		{"password where there is none", "redis://u:wr0ng@" + host(open), "does not accept the user and password"},
		{"user without a right", "redis://proxy:pw@" + host(limited), "the command SUBSCRIBE"},
		{"no such database", "redis://" + host(open) + "/99", "no database of that number"},
		{"no cluster", "redis+cluster://" + host(open), "not a Redis Cluster"},
		{"not TLS", "rediss://" + host(open), "does not speak it"},
	} {
		r := newReplica(t, c.url)
		wantRefusal(t, c.name, r, c.want)
		if err := r.Check(t.Context()); err != nil && strings.Contains(err.Error(), "wr0ng") {
			t.Errorf("%s: the password is in %q", c.name, err)
		}
	}
	for _, s := range []string{"redis://:right@" + host(locked), "redis://default:right@" + host(locked), "redis://" + host(open) + "/3"} {
		if err := newReplica(t, s).Check(t.Context()); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
}

// The rule for a user of its own that docs/gateway.md gives is enough, and says all that is needed.
func TestDocumentedRightsAreEnough(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/gateway.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rule, ok := strings.Cut(string(page), "    user e2ee-proxy ")
	if !ok {
		t.Fatal("docs/gateway.md has no rule for a user")
	}
	rule, _, _ = strings.Cut(rule, "\n")
	rule = "e2ee-proxy " + strings.ReplaceAll(rule, "PASSWORD", "pw")
	nodes := testredis.StartCluster(t, 3)
	for _, node := range nodes {
		setUser(t, node, rule)
	}
	whole := newReplica(t, "redis+cluster://e2ee-proxy:pw@"+nodes[0].Addr())
	if err := whole.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	whole.runs()
	whole.Put(t.Context(), entry("1", "one"), entry("2", "two"), entry("3", "three"))
	whole.wants("put into a cluster", token("3"), "three")
	redis := startRedis(t)
	setUser(t, redis, rule)
	url := "redis://e2ee-proxy:pw@" + redis.Addr()
	a, b := newReplica(t, url), newReplica(t, url)
	if err := a.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.runs()
	b.runs()
	a.Put(t.Context(), entry("1", "one"))
	b.wants("put", token("1"), "one")
	b.Drop(t.Context(), "tokens", "1")
	a.Raise(t.Context(), "tokens", "1")
	a.Claim(t.Context(), time.Second, token("1"))
	if n := a.breaker.failures.Load() + b.breaker.failures.Load(); n != 0 {
		t.Errorf("%d calls failed", n)
	}
	for _, command := range []string{"flushall", "keys *", "config get *", "get others"} {
		if err := a.client.Do(t.Context(), words(command)...).Err(); err == nil || !strings.Contains(err.Error(), "NOPERM") {
			t.Errorf("%s: %v", command, err)
		}
	}
}

// setUser makes a user as the configuration of Redis would.
func setUser(t *testing.T, s *testredis.Server, rule string) {
	t.Helper()
	if err := s.Client().Do(t.Context(), words("ACL SETUSER "+rule)...).Err(); err != nil {
		t.Fatal(err)
	}
}

func words(command string) (out []any) {
	for word := range strings.FieldsSeq(command) {
		out = append(out, word)
	}
	return out
}

// Who cannot be reached may come back: the start is not refused.
func TestUnreachableIsNoRefusal(t *testing.T) {
	t.Parallel()
	gone := startRedis(t)
	gone.Kill()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	for name, url := range map[string]string{
		"nobody listens": gone.URL(), "no socket": "unix:///nowhere/redis.sock", "silence": "redis://" + silent.Addr().String(),
		"no such host": "redis://host.invalid", "no Sentinel": "redis+sentinel://" + gone.Addr() + "/main", "no node": "redis+cluster://" + gone.Addr(),
	} {
		began := time.Now()
		err := newReplica(t, url, func(o *Options) { o.Timeout = 100 * time.Millisecond }).Check(t.Context())
		var refusal *RefusalError
		if err == nil || errors.As(err, &refusal) {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(began); took > checkWait+2*time.Second {
			t.Errorf("%s: took %s", name, took)
		}
		t.Logf("%s: %v", name, err)
	}
}

// TLS is used with the certificates that the settings name, in both directions.
func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writeCertificate(t, cert, key)
	url := "rediss://" + testredis.StartTLS(t, cert, key).Addr()
	with := func(files TLSFiles) *replica {
		return newReplica(t, url, func(o *Options) {
			var err error
			if o.Address, err = o.Address.WithFiles(files); err != nil {
				t.Fatal(err)
			}
		})
	}
	wantRefusal(t, "an authority that is not known", with(TLSFiles{}), "certificate of Redis is not accepted")
	if err := with(TLSFiles{CA: cert, Cert: cert, Key: key}).Check(t.Context()); err != nil {
		t.Error(err)
	}
	err := with(TLSFiles{CA: cert}).Check(t.Context())
	if err == nil {
		t.Error("it needs no certificate of the client")
	}
	t.Logf("without a certificate: %v", err)
	with(TLSFiles{CA: cert, Cert: cert, Key: key}).runs()
	wantRefusal(t, "without TLS", newReplica(t, strings.Replace(url, "rediss", "redis", 1)), "speaks TLS")
}

func writeCertificate(t *testing.T, cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	shape := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "redis"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, shape, shape, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
