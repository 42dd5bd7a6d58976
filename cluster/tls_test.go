package cluster_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"e2ee-proxy/cluster"
	"e2ee-proxy/internal/secret"
)

// authority issues certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	_, a.cert, a.key = a.issue(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	return a
}

func (a *authority) issue(template *x509.Certificate, by *authority) ([]byte, *x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber, template.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: "test"}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return der, cert, key
}

// replica returns how a replica with a certificate of this authority speaks and is spoken to.
func (a *authority) replica() *tls.Config {
	der, _, key := a.issue(&x509.Certificate{
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}, a)
	pair := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: a.roots(),
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pair, nil },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair, nil },
	}
}

func (a *authority) roots() *x509.CertPool {
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	return roots
}

// withTLS makes a replica speak TLS, with no secret.
func withTLS(config *tls.Config) func(*cluster.Options) {
	return func(o *cluster.Options) {
		o.TLS, o.Secret = config, secret.String{}
		o.Advertise = strings.Replace(o.Advertise, "http:", "https:", 1)
	}
}

func TestReplicasWithCertificates(t *testing.T) {
	t.Parallel()
	l, ca := newLedger(), newAuthority(t)
	a, b := mustStart(t, l, "a", withTLS(ca.replica())), mustStart(t, l, "b", withTLS(ca.replica()))
	resp, err := a.send(t.Context(), b.row)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || !strings.HasSuffix(string(body), "q-1 a") {
		t.Errorf("got %q, %v", body, err)
	}
}

// Attack: somebody without a certificate, and somebody with one of another authority, call a
// replica, and are called by one.
func TestCertificatesOfOthersAreRefused(t *testing.T) {
	t.Parallel()
	l, ca, evil := newLedger(), newAuthority(t), newAuthority(t)
	a := mustStart(t, l, "a", withTLS(ca.replica()))
	for name, config := range map[string]*tls.Config{
		"none":             {MinVersion: tls.VersionTLS13, RootCAs: ca.roots()},
		"of somebody else": {MinVersion: tls.VersionTLS13, RootCAs: ca.roots(), GetClientCertificate: evil.replica().GetClientCertificate},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.row.Advertise+"/v1/hello", nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := (&http.Transport{TLSClientConfig: config}).RoundTrip(req); err == nil {
			_ = resp.Body.Close()
			t.Errorf("with the certificate %s: %d", name, resp.StatusCode)
		}
	}
	b, err := start(t, l, "b", withTLS(evil.replica()))
	if !errors.Is(err, cluster.ErrStranger) || !strings.Contains(err.Error(), "process a") || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("joining: %v", err)
	}
	resp, err := a.send(t.Context(), b.row)
	if err == nil {
		_ = resp.Body.Close()
	}
	if !errors.Is(err, cluster.ErrStranger) || len(b.got) != 0 {
		t.Errorf("handing on: %v", err)
	}
	// One that speaks no TLS at all.
	if _, err := start(t, l, "c", nil); !errors.Is(err, cluster.ErrStranger) {
		t.Errorf("without TLS: %v", err)
	}
}
