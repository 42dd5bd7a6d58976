package main

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"e2ee-proxy/config"
)

// What cluster.tls names is shown by both sides, and each takes no other; new files are taken
// over for new connections, on both sides.
func TestClusterTLS(t *testing.T) {
	t.Parallel()
	cert, key := pairFiles(t)
	both, pair, err := clusterTLS(config.ClusterTLS{CertFile: cert, KeyFile: key, CAFile: cert})
	if err != nil {
		t.Fatal(err)
	}
	if err := handshake(t, both, both); err != nil {
		t.Errorf("between replicas: %v", err)
	}
	otherCert, otherKey := pairFiles(t)
	other, _, err := clusterTLS(config.ClusterTLS{CertFile: otherCert, KeyFile: otherKey, CAFile: cert})
	if err != nil {
		t.Fatal(err)
	}
	if handshake(t, both, other) == nil || handshake(t, other, both) == nil {
		t.Error("a certificate of another authority is taken")
	}
	for from, to := range map[string]string{otherCert: cert, otherKey: key} {
		raw, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := pair.Reload(); err != nil {
		t.Fatal(err)
	}
	if handshake(t, both, both) == nil { // the authority stays that of the start
		t.Error("the new certificate is not in use")
	}
}

// handshake lets a client and a server speak, both of which show certificates.
func handshake(t *testing.T, client, server *tls.Config) error {
	t.Helper()
	server = server.Clone()
	server.ClientAuth, server.ClientCAs = tls.RequireAndVerifyClientCert, server.RootCAs
	ln, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	answered := make(chan error, 1)
	go func() {
		conn, err := ln.Accept()
		if err == nil {
			_, err = conn.Write([]byte("."))
			err = errors.Join(err, conn.Close())
		}
		answered <- err
	}()
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client = client.Clone()
	client.ServerName = "127.0.0.1"
	_, err = tls.Client(conn, client).Read(make([]byte, 1)) // in TLS 1.3 a refusal comes with the first answer
	return errors.Join(err, conn.Close(), <-answered)
}

func TestClusterTLSThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	cert, key := pairFiles(t)
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]config.ClusterTLS{
		"cluster.tls.cert_file": {CertFile: key, KeyFile: cert, CAFile: cert},
		"cluster.tls.ca_file":   {CertFile: cert, KeyFile: key, CAFile: empty},
	} {
		_, _, err := clusterTLS(c)
		f, ok := errors.AsType[*failure](err)
		if !ok || f.code != exitConfig || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
	if tls, pair, err := clusterTLS(config.ClusterTLS{}); tls != nil || pair != nil || err != nil {
		t.Errorf("without: %v, %v, %v", tls, pair, err)
	}
}
