package proxy

import (
	"net/http"
	"strings"
	"testing"
)

const canary = "the canary that must not be seen upstream"

// attackPaths are attacks N7 and N9: every way we know to spell "send this into that
// room" so that a homeserver, or something on the way to it, understands what a proxy
// might not.
func attackPaths() []string {
	prefixes := []string{
		"r0", "v1", "v3", "v4", "unstable", "api/v1", // known
		"v2", "v99", "V3", "r1", "v3.1", "api/v2", "v2_alpha", "", "unstable/org.matrix.msc2716", "unstable/org.example", "v3/unstable",
	}
	tails := []string{
		"rooms/!r:hs/send/m.room.message/t",
		"rooms/!r:hs/send/m.room.message",
		"rooms/!r:hs/send/m.room.message/",
		"rooms/!r:hs/send/m.room.message/t/",
		"rooms/!r:hs/send/m.room.message/t/x",
		"rooms/!r:hs/send",
		"rooms/!r:hs/send/",
		"rooms/!r:hs/SEND/m.room.message/t",
		"ROOMS/!r:hs/send/m.room.message/t",
		"Rooms/!r:hs/Send/m.room.message/t",
		"rooms/!r:hs/%73end/m.room.message/t",
		"rooms/!r:hs/s%65nd/m.room.message/t",
		"%72ooms/!r:hs/send/m.room.message/t",
		"rooms%2F!r:hs%2Fsend%2Fm.room.message%2Ft",
		"rooms/!r:hs%2Fsend%2Fm.room.message%2Ft",
		"rooms/!r:hs%2Fsend/m.room.message/t",
		"rooms/!r:hs/send%2Fm.room.message/t",
		"rooms/!r:hs/send/m.room.message%2Ft",
		"rooms/!r:hs/send;x=1/m.room.message/t",
		"rooms;x=1/!r:hs/send/m.room.message/t",
		"rooms/!r:hs;x=1/send/m.room.message/t",
		"rooms/!r:hs/send/m.room.message/t;x=1",
		"rooms/!r:hs/send/m.room.message/t#x",
		"rooms/!r:hs/send/m.room.message/t%23x",
		"rooms/!r:hs/send%3Fx/m.room.message/t",
		"rooms/!r:hs/send?/m.room.message/t",
		"rooms/!r:hs/send/m.room.message?x/t",
		"rooms//!r:hs/send/m.room.message/t",
		"rooms/!r:hs//send/m.room.message/t",
		"rooms/!r:hs/send//t",
		"/rooms/!r:hs/send/m.room.message/t",
		"./rooms/!r:hs/send/m.room.message/t",
		"x/../rooms/!r:hs/send/m.room.message/t",
		"rooms/!r:hs/./send/m.room.message/t",
		"rooms/!r:hs/typing/../send/m.room.message/t",
		"rooms/!r:hs/typing/%2e%2e/send/m.room.message/t",
		"rooms/!r:hs/typing/..%2Fsend%2Fm.room.message%2Ft",
		"rooms/!r:hs/typing/@u%2F..%2F..%2Fsend%2Fm.room.message%2Ft",
		"rooms/!r:hs/receipt/m.read/..%2F..%2Fsend%2Fm.room.message",
		"rooms/!r:hs/receipt/..%5C..%5Csend/m.room.message",
		"rooms/!r:hs/report/..%2Fsend%2Fm.room.message",
		"rooms/!r:hs/read_markers/../send/m.room.message",
		"user/@u:hs/account_data/..%2F..%2F..%2Frooms%2F!r:hs%2Fsend%2Fm.room.message%2Ft",
		"presence/rooms%2F!r:hs%2Fsend/status",
		"rooms/%2521r%253Ahs/send/m.room.message/t",
		"rooms/%21r%3Ahs/%2573end/m.room.message/t",
		"rooms/!r:hs%252Fsend/report",
		"rooms/!r:hs%255Csend/report",
		"rooms/!r:hs%5Csend/report",
		"rooms/!r:hs%25252Fsend%25252Fm.room.message%25252Ft/report",
		"rooms/!r:hs%2Fsend%2Fm.room.message%2Ft/typing/@u:hs",
		"org.example/x%252F..%252Frooms%252F!r:hs%252Fsend%252Fm.room.message%252Ft",
		"user/@u:hs/account_data/..%252F..%252F..%252Frooms%252F!r:hs%252Fsend%252Fm.room.message%252Ft",
		"presence/..%255Crooms%255C!r:hs%255Csend%255Cm.room.message/status",
		"rooms/!r:hs%00/send/m.room.message/t",
		"rooms/!r:hs/send%00/m.room.message/t",
		"rooms/!r:hs/send/m.room.message%0a/t",
		"rooms/!r:hs/send%20/m.room.message/t",
		"rooms/!r:hs/%20send/m.room.message/t",
		"rooms/!r:hs/send\u200b/m.room.message/t",
		"rooms/!r:hs/ſend/m.room.message/t", // folds to "send" in Unicode
		"rooms/!r:hs/state/m.room.message",
		"rooms/!r:hs/state/m.room.message/",
		"rooms/!r:hs/state/m.room.message/k",
		"rooms/!r:hs/state/m.room.message/k/x",
		"rooms/!r:hs/State/m.room.message/k",
		"rooms/!r:hs/redact/$e/t",
		"rooms/!r:hs/redact/$e",
		"rooms/!r:hs/redact/$e/t/x",
		"rooms/!r:hs/redact",
		"rooms/!r:hs/batch_send",
		"rooms/!r:hs/import",
		"rooms/!r:hs/import/x",
		"rooms/!r:hs/unheard_of",
		"rooms/!r:hs",
		"rooms",
		"send/m.room.message/t",
		"org.example/rooms/!r:hs/send/m.room.message/t",
		"org.example/!r:hs/say/t",
		"org.matrix.msc2716/rooms/!r:hs/batch_send",
		"com.beeper.backfill/rooms/!r:hs/batch_send",
		"createRoom/t",
		"org.matrix.msc4080/send_pdus/t",
		"org.matrix.msc4080/Send_PDUs/t",
		"sendPDUs/t",
		"sync",
		"org.matrix.simplified_msc3575/sync",
	}
	// Not only the Client-Server API reaches a homeserver: so does everything that is passed on.
	areas := []string{"/_matrix/client/", "/_matrix/media/", "/_synapse/client/", "/_matrix/static/", "/.well-known/matrix/"}
	heads := []string{"//_matrix/client/", "/_matrix//client/", "/./_matrix/client/", "/_matrix/Client/", "/_matrix%2Fclient/", "/x/../_matrix/client/", "http://hs/_matrix/client/", "/_matrix/client/../client/"}
	all := make([]string, 0, len(heads)*len(prefixes)*8+len(areas)*len(prefixes)*len(tails))
	for i, head := range append(areas, heads...) {
		for _, prefix := range prefixes {
			use := tails
			if i >= len(areas) {
				use = tails[:8]
			}
			for _, tail := range use {
				all = append(all, strings.TrimSuffix(head+prefix, "/")+"/"+tail)
			}
		}
	}
	return append(all,
		"/_matrix/media/v3/../../client/v3/rooms/!r:hs/send/m.room.message/t",
		"/_matrix/media/v3/upload/x/..%2F..%2F..%2F..%2Fclient%2Fv3%2Frooms%2F!r:hs%2Fsend%2Fm.room.message%2Ft",
		"/_synapse/client/../../_matrix/client/v3/rooms/!r:hs/send/m.room.message/t",
		"/_synapse/client/..%2F..%2F_matrix%2Fclient%2Fv3%2Frooms%2F!r:hs%2Fsend%2Fm.room.message%2Ft",
		"/_matrix/media/v3/x%252F..%252F..%252Fclient%252Fv3%252Frooms%252F!r:hs%252Fsend%252Fm.room.message%252Ft",
		"/_synapse/client/x%5C..%5C..%5C_matrix%5Cclient%5Cv3%5Crooms%5C!r:hs%5Csend%5Cm.room.message%5Ct",
		"/_synapse/client/rooms;x/!r:hs/send/m.room.message/t",
		"/_synapse/client/x%3Brooms%3B/send",
		"/_matrix/media/v3/rooms%00/!r:hs/send/m.room.message/t",
		"/_synapse/admin/v1/send_server_notice",
		"/_matrix/federation/v1/send/t",
		"/_e2ee_proxy/v1/../../_matrix/client/v3/rooms/!r:hs/send/m.room.message/t",
	)
}

// Attack vector: a client, or somebody who writes its links, sends plaintext into an
// encrypted room by a path that the homeserver understands and the proxy does not
// recognize as a send (N7), or by one that it reads differently (N9): other methods,
// other prefixes, encoded letters and slashes, dots, empty segments, other case.
//
// Expected: every one of them is refused with 400 or 404, or goes to the interceptor, in
// every part of the URL space that is passed on (media and single sign-on too). The
// homeserver sees no plaintext, and no path that anybody could take for a write into a room.
func TestNoPlaintextByAnyPath(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	body := `{"msgtype":"m.text","body":"` + canary + `"}`
	for _, method := range []string{"PUT", "POST", "PATCH", "DELETE", "GET", "HEAD"} {
		intercepted := 0
		for _, path := range attackPaths() {
			r := inProcess(method, path, body)
			w := g.serveInProcess(r)
			switch {
			case w.Header().Get("X-Intercepted") != "":
				intercepted++
			case w.Code == http.StatusBadRequest, w.Code == http.StatusNotFound:
			case method == "GET" || method == "HEAD": // reads may pass; their bodies may not
			default:
				t.Errorf("%s %s: answered %d", method, path, w.Code)
			}
		}
		if method == "PUT" && intercepted < 30 {
			t.Errorf("only %d paths with %s reach an interceptor", intercepted, method)
		}
	}
	for _, s := range g.hs.all() {
		if strings.Contains(s.Body, canary) || s.Method != "GET" && s.Method != "HEAD" {
			t.Errorf("upstream got %s %s with body %q", s.Method, s.Target, s.Body)
		}
	}
}

// Attack vector: a method that the proxy lets pass is turned into another one by a
// header that some frameworks obey, or the target by one that some gateways obey.
//
// Expected: the homeserver never sees such a header.
func TestNoMethodOrTargetOverride(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	a := g.do("POST", "/_matrix/client/v3/rooms/!r:hs/read_markers?_method=PUT", `{}`,
		"Authorization: Bearer alice", "X-HTTP-Method-Override: PUT", "X-Method-Override: PUT", "X-HTTP-Method: PUT",
		"X-Original-URL: /_matrix/client/v3/rooms/!r:hs/send/m.room.message/t", "X-Rewrite-URL: /x", "X_Original_Url: /x")
	if a.StatusCode != http.StatusOK {
		t.Fatalf("got %d", a.StatusCode)
	}
	for _, s := range g.hs.all() {
		for name := range s.Header {
			if strings.Contains(strings.ToLower(name), "override") || strings.Contains(strings.ToLower(name), "url") || name == "X-Http-Method" {
				t.Errorf("upstream got the header %s", name)
			}
		}
	}
}

// Attack vector: the body of a request that should have none, or a second request in it
// (request smuggling), carries the plaintext.
//
// Expected: a GET's body is dropped; a length that is said twice differently is refused.
func TestNoPlaintextInBodiesThatAreNone(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	if a := g.do("GET", "/_matrix/client/v3/rooms/!r:hs/members", canary, "Authorization: Bearer alice"); a.StatusCode != http.StatusOK {
		t.Errorf("GET with a body: %d", a.StatusCode)
	}
	smuggled := "PUT /_matrix/client/v3/rooms/!r:hs/send/m.room.message/t HTTP/1.1\r\nHost: hs\r\nContent-Length: 50\r\n\r\n" + canary
	for name, framing := range map[string]string{
		"two lengths":                 "Content-Length: 5\r\nContent-Length: 6\r\n",
		"a length with a sign":        "Content-Length: +5\r\n",
		"a coding nobody knows":       "Transfer-Encoding: xchunked\r\n",
		"two codings":                 "Transfer-Encoding: chunked, identity\r\n",
		"a space before the colon":    "Transfer-Encoding : chunked\r\nContent-Length: 5\r\n",
		"a folded line":               "X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: 5\r\nContent-Length: 6\r\n",
		"a bare line feed in a chunk": "Transfer-Encoding: chunked\r\n",
	} {
		body := smuggled
		if strings.Contains(name, "chunk") && strings.Contains(name, "bare") {
			body = "5\nabcde\n0\n\n" + smuggled
		}
		a := g.raw("POST", "POST /_matrix/client/v3/user_directory/search HTTP/1.1\r\nHost: proxy.test\r\nConnection: close\r\n"+framing+"\r\n"+body)
		if a.StatusCode < 400 {
			t.Errorf("%s: answered %d", name, a.StatusCode)
		}
	}
	// With both a length and chunks, the chunks count and the length is not passed on.
	a := g.raw("POST", "POST /_matrix/client/v3/user_directory/search HTTP/1.1\r\nHost: proxy.test\r\nConnection: close\r\n"+
		"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"+smuggled)
	for _, s := range g.hs.all() {
		if strings.Contains(s.Body, canary) || s.Method == "PUT" || s.Header.Get("Content-Length") == "5" {
			t.Errorf("upstream got %s %s with %v and body %q (client got %d)", s.Method, s.Target, s.Header, s.Body, a.StatusCode)
		}
	}
}
