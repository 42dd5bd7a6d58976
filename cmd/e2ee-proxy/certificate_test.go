package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// The commands that scripts have for TLS.

// issue is "issue NAME CERT KEY [EXPIRED]": makes a certificate for this machine with a name,
// and its key, in two files.
func issue(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: issue NAME CERT KEY [EXPIRED]")
	}
	end := time.Now().Add(time.Hour)
	if len(args) > 3 {
		end = time.Now().Add(-time.Minute)
	}
	ts.Check(writePair(args[0], ts.MkAbs(args[1]), ts.MkAbs(args[2]), end))
}

// writePair makes a certificate for this machine with a name, and its key, in two files.
func writePair(name, certFile, keyFile string, end time.Time) error {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: end,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600))
}

// pairFiles returns files with a certificate and its key.
func pairFiles(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	certFile, keyFile = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	if err := writePair("test", certFile, keyFile, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	return certFile, keyFile
}

// gettls is "gettls URL PATTERN": waits until what is got over TLS matches: the name in the
// certificate, the version of HTTP, the status and the body.
func gettls(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: gettls URL PATTERN")
	}
	pattern, err := regexp.Compile(args[1])
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	last := ""
	for ctx.Err() == nil {
		if last = fetchTLS(ctx, args[0]); pattern.MatchString(last) {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
	ts.Fatalf("%s gave %s, want %s", args[0], last, args[1])
}

// fetchTLS gets a resource over a connection of its own.
func fetchTLS(ctx context.Context, url string) string {
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err.Error()
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s %s %d %s", resp.TLS.PeerCertificates[0].Subject.CommonName, resp.Proto, resp.StatusCode, body)
}
