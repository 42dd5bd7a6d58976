package proxy

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"e2ee-proxy/internal/testproc"
)

const nginxConfig = `
worker_processes 2;
daemon off;
pid %[1]s/pid;
error_log %[1]s/error.log;
events { worker_connections 256; }
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	keepalive_requests 1000000000;
	upstream homeserver { server %[2]s; keepalive 64; keepalive_requests 1000000000; }
	server {
		listen %[3]s;
		location / { proxy_pass http://homeserver; proxy_http_version 1.1; proxy_set_header Connection ""; }
	}
}
`

// BenchmarkNginx is a pass-through beside nginx, if there is one on the machine.
func BenchmarkNginx(b *testing.B) {
	binary, err := exec.LookPath("nginx")
	if err != nil {
		b.Skip("there is no nginx here")
	}
	b.Run("reference=nginx", func(b *testing.B) {
		ports, err := testproc.FreePorts(1)
		if err != nil {
			b.Fatal(err)
		}
		dir, address := b.TempDir(), fmt.Sprintf("127.0.0.1:%d", ports[0])
		config := filepath.Join(dir, "nginx.conf")
		if err := os.WriteFile(config, fmt.Appendf(nil, nginxConfig, dir, quietUpstream(b).Host, address), 0o600); err != nil {
			b.Fatal(err)
		}
		nginx := exec.CommandContext(b.Context(), binary, "-p", dir, "-c", config)
		nginx.Cancel = func() error { return nginx.Process.Signal(os.Interrupt) } // its workers end with it
		if err := nginx.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = nginx.Wait() }) // b's context has ended by then
		soon, cancel := context.WithTimeout(b.Context(), 10*time.Second)
		defer cancel()
		err = testproc.Await(soon, func(context.Context) error {
			conn, err := net.Dial("tcp", address)
			if err == nil {
				err = conn.Close()
			}
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
		loopOn(b, address, benchGet)
	})
	b.Run("e2ee-proxy", func(b *testing.B) { loop(b, benchProxy(b, quietUpstream(b)), benchGet) })
}
