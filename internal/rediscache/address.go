package rediscache

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"

	"e2ee-proxy/internal/secret"
)

const (
	defaultPort         = "6379"
	defaultSentinelPort = "26379"
)

// Shape is how a Redis is run.
type Shape int

// Shapes. The zero value is none.
const (
	// Standalone is one server.
	Standalone Shape = iota + 1
	// Sentinel is a server and its replicas, of which the Sentinels say who is the master.
	Sentinel
	// Cluster is a Redis Cluster.
	Cluster
)

// Address is where a Redis is and how to log in to it.
type Address struct {
	Shape Shape
	// Hosts are addresses with ports; of the Sentinels for [Sentinel], some of the nodes for
	// [Cluster].
	Hosts []string
	// Socket is the path of a Unix socket, instead of hosts.
	Socket string
	// Master is the name under which Sentinels know the master.
	Master           string
	Database         int
	User             string
	Password         secret.String
	SentinelUser     string
	SentinelPassword secret.String
	// TLS is nil for a connection without.
	TLS *tls.Config
}

// ParseAddress reads a URL:
//
//	redis://USER:PASSWORD@HOST:PORT/DATABASE
//	redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/MASTER/DATABASE?sentinel_user=U&sentinel_password=P
//	redis+cluster://USER:PASSWORD@HOST:PORT,HOST:PORT
//	unix://USER:PASSWORD@/path/of/socket?database=N
//
// rediss, rediss+sentinel and rediss+cluster use TLS. Everything but the host may be left out. Its
// errors repeat nothing of the URL.
func ParseAddress(text string) (Address, error) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return Address{}, errors.New("is not a URL")
	}
	a, err := ofScheme(scheme)
	if err != nil {
		return Address{}, err
	}
	// A URL has one host: the others are taken out before it is read.
	authority, path := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, path = rest[:i], rest[i:]
	}
	login, hosts := "", authority
	if i := strings.LastIndex(authority, "@"); i >= 0 {
		login, hosts = authority[:i+1], authority[i+1:]
	}
	u, err := url.Parse("redis://" + login + "host" + path)
	if err != nil || u.Fragment != "" {
		return Address{}, errors.New("is not a URL; special characters in the password are written like %40")
	}
	if u.User != nil {
		password, _ := u.User.Password()
		a.User, a.Password = u.User.Username(), secret.NewString(password)
		if a.Password.IsZero() {
			return Address{}, errors.New("has a user and no password; a password alone is written like :PASSWORD@")
		}
	}
	if err := a.place(scheme, hosts, u); err != nil {
		return Address{}, err
	}
	return a, a.query(u.Query())
}

func ofScheme(scheme string) (Address, error) {
	var a Address
	plain := strings.Replace(scheme, "rediss", "redis", 1)
	if plain != scheme {
		a.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	switch plain {
	case "redis", "unix":
		a.Shape = Standalone
	case "redis+sentinel":
		a.Shape = Sentinel
	case "redis+cluster":
		a.Shape = Cluster
	default:
		return Address{}, errors.New("does not begin with redis://, rediss://, redis+sentinel://, rediss+sentinel://, redis+cluster://, rediss+cluster:// or unix://")
	}
	return a, nil
}

// place reads hosts and path.
func (a *Address) place(scheme, hosts string, u *url.URL) error {
	if scheme == "unix" {
		if a.Socket = u.Path; hosts != "" || !strings.HasPrefix(u.Path, "/") || u.Path == "/" {
			return errors.New("does not name a socket; it is written like unix:///run/redis/redis.sock")
		}
		return nil
	}
	port := defaultPort
	if a.Shape == Sentinel {
		port = defaultSentinelPort
	}
	for host := range strings.SplitSeq(hosts, ",") {
		withPort, err := hostPort(host, port)
		if err != nil {
			return err
		}
		a.Hosts = append(a.Hosts, withPort)
	}
	if a.Shape == Standalone && len(a.Hosts) > 1 {
		return errors.New("names several servers, which only redis+sentinel:// and redis+cluster:// do")
	}
	database := strings.Trim(u.Path, "/")
	if a.Shape == Sentinel {
		if a.Master, database, _ = strings.Cut(database, "/"); a.Master == "" {
			return errors.New("does not say under which name the Sentinels know the master; it is written like redis+sentinel://HOST:26379/MASTER")
		}
	}
	if a.Shape == Cluster && database != "" {
		return errors.New("names a database, which a Redis Cluster does not have")
	}
	return a.number(database)
}

func hostPort(host, port string) (string, error) {
	name := strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if bracketed := name != host; bracketed || !strings.Contains(host, ":") {
		if h, p, err := net.SplitHostPort(host); err == nil {
			name, port = h, p
		}
	} else {
		var err error
		if name, port, err = net.SplitHostPort(host); err != nil {
			return "", errors.New("has a host that is not HOST or HOST:PORT")
		}
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil || name == "" {
		return "", errors.New("has a host that is not HOST or HOST:PORT")
	}
	return net.JoinHostPort(name, port), nil
}

func (a *Address) number(database string) error {
	if database == "" {
		return nil
	}
	n, err := strconv.ParseUint(database, 10, 16)
	if err != nil {
		return errors.New("has a database that is not a number")
	}
	a.Database = int(n)
	return nil
}

func (a *Address) query(q url.Values) error {
	for name, values := range q {
		value := values[len(values)-1]
		switch {
		case name == "sentinel_user" && a.Shape == Sentinel:
			a.SentinelUser = value
		case name == "sentinel_password" && a.Shape == Sentinel:
			a.SentinelPassword = secret.NewString(value)
		case name == "database" && a.Socket != "":
			if err := a.number(value); err != nil {
				return err
			}
		default:
			return errors.New("has a parameter that is not known")
		}
	}
	return nil
}

// TLSFiles are files in PEM form.
type TLSFiles struct {
	// CA has the certificates to trust besides the system's; empty for none.
	CA string
	// Cert and Key are what this process shows to the server; empty for nothing.
	Cert, Key string
}

// WithFiles returns the address with TLS as the files say.
func (a Address) WithFiles(f TLSFiles) (Address, error) {
	if a.TLS == nil || f == (TLSFiles{}) {
		return a, nil
	}
	a.TLS = a.TLS.Clone()
	if f.CA != "" {
		pem, err := os.ReadFile(f.CA)
		if err != nil {
			return a, err
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return a, fmt.Errorf("%s has no certificate", f.CA)
		}
		a.TLS.RootCAs = pool
	}
	if f.Cert != "" {
		pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return a, err
		}
		a.TLS.Certificates = []tls.Certificate{pair}
	}
	return a, nil
}

// client makes a client that gives up after the timeout and tries nothing twice.
func (a Address) client(timeout time.Duration) (redis.UniversalClient, error) {
	// The client's messages are for its users' consoles. What matters is in the calls' errors.
	logging.Disable()
	o := &redis.UniversalOptions{
		Addrs: a.Hosts, DB: a.Database, Username: a.User, Password: a.Password.Reveal(), TLSConfig: a.TLS,
		MasterName: a.Master, SentinelUsername: a.SentinelUser, SentinelPassword: a.SentinelPassword.Reveal(),
		MaxRetries: -1, DialTimeout: timeout, DialerRetries: 1, ReadTimeout: timeout, WriteTimeout: timeout, PoolTimeout: timeout,
		ContextTimeoutEnabled: true, MaxActiveConns: maxConnections, PipelinePoolSize: -1, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	switch a.Shape {
	case Standalone:
		simple := o.Simple()
		if a.Socket != "" {
			simple.Network, simple.Addr = "unix", a.Socket
		}
		return redis.NewClient(simple), nil
	case Sentinel:
		return redis.NewFailoverClient(o.Failover()), nil
	case Cluster:
		return redis.NewClusterClient(o.Cluster()), nil
	}
	return nil, errors.New("no address of a Redis")
}

// maxConnections is how many connections there are to one server at most.
const maxConnections = 64
