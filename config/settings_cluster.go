package config

import "e2ee-proxy/internal/secret"

// Cluster makes the process one of several on a PostgreSQL database.
type Cluster struct {
	// Address and port for the other replicas. Setting it makes this process a replica. It must
	// not be reachable for anybody else: access tokens travel here.
	Listen string `yaml:"listen" kind:"HOST:PORT"`

	// Base URL at which the other replicas reach this one's listener; another one for each, with
	// https if cluster.tls is set and http otherwise.
	Advertise URL `yaml:"advertise"`

	// What all replicas know and nobody else, at least 32 characters, for example from
	// `openssl rand -base64 32`. It is never sent. Not needed with cluster.tls.
	Secret secret.String `yaml:"secret"`

	// TLS between replicas, with a certificate on both sides. Without it they need a network of
	// their own.
	TLS ClusterTLS `yaml:"tls"`
}

// ClusterTLS is what the replicas' connections are protected with.
type ClusterTLS struct {
	// File with this replica's certificate (PEM), for the host of cluster.advertise, followed by
	// those that lead to its authority. Both files are looked at every 10 seconds.
	CertFile string `yaml:"cert_file" kind:"FILE"`

	// File with the certificate's private key (PEM).
	KeyFile string `yaml:"key_file" kind:"FILE"`

	// File with the certificate (PEM) of the authority that issues those of replicas. Whoever
	// has a certificate of it is taken for a replica, so it must issue no others.
	CAFile string `yaml:"ca_file" kind:"FILE"`
}

// On reports whether this process is a replica.
func (c Cluster) On() bool { return c.Listen != "" }

// On reports whether replicas use TLS.
func (t ClusterTLS) On() bool { return t.CertFile != "" || t.KeyFile != "" || t.CAFile != "" }
