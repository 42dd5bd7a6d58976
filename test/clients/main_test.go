package clients

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproc"
	"e2ee-proxy/internal/testproxy"
)

// The homeserver of this test binary.
var shared tesths.Shared

func TestMain(m *testing.M) {
	flag.Parse()
	// The tests wait for processes more than they compute.
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		if err := f.Value.Set(strconv.Itoa(2 * runtime.GOMAXPROCS(0))); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(shared.Run(m))
}

// world is what all clients share: one homeserver, one proxy, one process for the peers.
type world struct {
	hs    *tesths.Homeserver
	proxy *testproxy.Proxy
	host  *testpeer.Host
	// version is that of the rooms, the homeserver's default when empty.
	version string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return worldOn(t, shared.Dendrite(t))
}

func worldOn(t *testing.T, hs *tesths.Homeserver) *world {
	t.Helper()
	return &world{hs: hs, proxy: testproxy.Start(t, hs.URL, testproxy.Options{}), host: testpeer.NodeHost(t)}
}

// linked returns the same with a proxy that gives pictures to clients that send no token.
func (w *world) linked(t *testing.T) *world {
	t.Helper()
	linked := *w
	linked.proxy = testproxy.Start(t, w.hs.URL, testproxy.Options{Args: []string{"--media-links"}})
	return &linked
}

var accounts atomic.Int64

// newAccount registers a user that no other test has.
func (w *world) newAccount(t *testing.T, name string) tesths.Account {
	t.Helper()
	user := fmt.Sprintf("%s-%d", name, accounts.Add(1))
	a, err := w.hs.Register(t.Context(), user, "password of "+user)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// place is where a client is tried: an account of its own, and the encrypted room of an
// Element peer that excludes insecure devices.
type place struct {
	*world
	account tesths.Account
	peer    *testpeer.Client
	room    string
	// dir is where the client keeps its things from one start to the next.
	dir string
}

func (w *world) newPlace(t *testing.T) *place {
	t.Helper()
	a, b := w.newAccount(t, "alice"), w.newAccount(t, "bot")
	p := &place{world: w, account: b, dir: t.TempDir()}
	p.peer = w.host.Element(t, testpeer.Options{URL: w.hs.URL, User: a.UserID, Password: a.Password, Setup: testpeer.Bootstrap})
	p.room = p.peer.CreateRoom(testpeer.Room{Encrypted: true, Version: w.version})
	return p
}

// invite invites the account into the room, unless it is in it already.
func (p *place) invite(again bool) {
	if !again {
		p.peer.Invite(p.room, p.account.UserID)
	}
}

// awaitSigned waits until the peer sees that all devices of the account are confirmed by
// their owner, as the proxy does after a login; it gives keys to no others.
func (p *place) awaitSigned(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var all struct {
		Devices []struct {
			ID string `json:"device_id"`
		} `json:"devices"`
	}
	if err := p.hs.Client().As(p.account).Call(ctx, http.MethodGet, "/_matrix/client/v3/devices", nil, &all); err != nil {
		t.Fatal(err)
	}
	for _, d := range all.Devices {
		if d.ID != p.account.DeviceID { // which the test made, past the proxy
			p.peer.AwaitDevice(p.account.UserID, d.ID, true)
		}
	}
}

// localpart returns the account's name without the server's.
func (p *place) localpart() string {
	name, _, _ := strings.Cut(strings.TrimPrefix(p.account.UserID, "@"), ":")
	return name
}

// address returns the proxy's host and port.
func (p *place) address() string { return strings.TrimPrefix(p.proxy.URL, "http://") }

// userinfo returns the account's name and password as they stand in a URL.
func (p *place) userinfo() string {
	return url.UserPassword(p.localpart(), p.account.Password).String()
}

// wantRead fails unless the peer reads the text, encrypted by the client's signed device:
// Element shows no shield.
func (p *place) wantRead(t *testing.T, text string) testpeer.Message {
	t.Helper()
	m := p.peer.Await(p.room, testpeer.Where{"body": text, "decrypted": true, "sender": p.account.UserID})
	if m.WireType != "m.room.encrypted" || m.Shield == nil || m.Shield.Colour != "NONE" {
		t.Errorf("the peer sees %q as %s, shield %+v", m.Body, m.WireType, m.Shield)
	}
	return m
}

// python returns the interpreter of the environment in which a client is installed.
func python(t *testing.T, client string) string {
	t.Helper()
	interpreter, err := testproc.PythonWith(t.Context(), client, filepath.Join("test", "clients", client))
	if err != nil {
		testproc.Missing(t, client, err)
	}
	return interpreter
}

// driver returns the file of a script that drives a client.
func driver(t *testing.T, name string) string {
	t.Helper()
	root, err := testproc.Root()
	if err == nil {
		err = testproc.DependOn(root, filepath.Join("test", "clients", "drivers"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, "test", "clients", "drivers", name)
}

// run runs a program that ends by itself, in the client's folder, and returns what it says.
func run(t *testing.T, p *place, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env = p.dir, p.env()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", filepath.Base(name), err, out)
	}
	return string(out)
}

// env is the environment of a client, with a home of its own.
func (p *place) env(more ...string) []string {
	return append(append(os.Environ(), "HOME="+p.dir, "XDG_CONFIG_HOME="+p.dir, "XDG_DATA_HOME="+p.dir, "XDG_CACHE_HOME="+p.dir), more...)
}
