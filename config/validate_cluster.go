package config

import (
	"fmt"
	"net"
	"strings"
)

// leastSecret is how long the cluster's secret must be, in characters.
const leastSecret = 32

// cluster checks what makes this process a replica.
func (l *loader) cluster(c *Config, offline bool) {
	s := &c.Cluster
	if !s.On() {
		l.clusterOff(s)
		return
	}
	l.address("cluster.listen", s.Listen)
	for _, other := range [][2]string{{"listen", c.Listen}, {"ops_listen", c.OpsListen}} {
		if s.Listen == other[1] && !strings.HasSuffix(s.Listen, ":0") {
			l.problemAt("cluster.listen", "is the same address as "+other[0], "choose another port")
		}
	}
	l.advertise(s)
	const secret = "cluster.secret"
	switch size := len(s.Secret.Reveal()); {
	case l.reported(secret):
	case size == 0 && !s.TLS.On():
		l.problemAt(secret, "is missing, and so is cluster.tls: replicas must recognise each other", "make one with: openssl rand -base64 32; and set cluster.secret_file")
	case size > 0 && size < leastSecret:
		l.problemAt(secret, fmt.Sprintf("is shorter than %d characters", leastSecret), "make one with: openssl rand -base64 32")
	}
	l.clusterTLS(s.TLS, offline)
	if url := c.Database.URL.Reveal(); !strings.HasPrefix(url, "postgres://") && !strings.HasPrefix(url, "postgresql://") && !l.reported("database.url") {
		l.problemAt("database.url", "is not PostgreSQL, which replicas share", "set the URL of a PostgreSQL database, or remove cluster.listen")
		if c.MasterKey.Key.IsZero() && !l.reported("master_key.key") {
			l.problemAt("master_key.key", "is needed for replicas: all must have the same", "make one with: openssl rand -base64 32; and set master_key.key_file")
		}
	}
}

// clusterOff reports settings of a cluster that do nothing.
func (l *loader) clusterOff(s *Cluster) {
	for _, part := range []struct {
		path string
		set  bool
	}{
		{"cluster.advertise", !s.Advertise.IsZero()}, {"cluster.secret", !s.Secret.IsZero()},
		{"cluster.tls.cert_file", s.TLS.CertFile != ""}, {"cluster.tls.key_file", s.TLS.KeyFile != ""}, {"cluster.tls.ca_file", s.TLS.CAFile != ""},
	} {
		if part.set && !l.reported(part.path) {
			l.problemAt(part.path, "has no effect without cluster.listen", "set cluster.listen, or remove it")
		}
	}
}

// advertise checks the URL that others get: one that leads nowhere from there is a mistake that is
// noticed late.
func (l *loader) advertise(s *Cluster) {
	const path = "cluster.advertise"
	if l.reported(path) {
		return
	}
	u := s.Advertise.URL()
	ip := net.ParseIP(u.Hostname())
	switch {
	case s.Advertise.IsZero():
		l.problemAt(path, "is missing", "set the URL at which the other replicas reach this one, such as http://10.0.0.1:8011")
	case ip != nil && ip.IsUnspecified():
		l.problemAt(path, "is an address to listen on, not one to connect to", "name this machine as the other replicas reach it")
	case u.Path != "":
		l.problemAt(path, "has a path", "write it like http://10.0.0.1:8011")
	case s.TLS.On() && u.Scheme != "https":
		l.problemAt(path, "is not https, but cluster.tls is set", "write it like https://replica-1.internal:8011, or remove cluster.tls")
	case !s.TLS.On() && u.Scheme != "http":
		l.problemAt(path, "is https, but cluster.tls is not set", "set cluster.tls, or write it like http://10.0.0.1:8011")
	}
}

func (l *loader) clusterTLS(t ClusterTLS, offline bool) {
	if !t.On() {
		return
	}
	missing := false
	for _, file := range [][2]string{{"cluster.tls.cert_file", t.CertFile}, {"cluster.tls.key_file", t.KeyFile}, {"cluster.tls.ca_file", t.CAFile}} {
		if file[1] == "" {
			missing = true
			l.problemAt(file[0], "is missing: TLS between replicas takes a certificate, its key and the authority", "name the file, or remove the others")
		}
	}
	if missing || offline {
		return
	}
	l.keyPair("cluster.tls.cert_file", t.CertFile, "cluster.tls.key_file", t.KeyFile)
	l.certificates("cluster.tls.ca_file", t.CAFile)
}
