package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testproxy"
)

// pathSpellings returns the ways round of attacks N7, N9, 29 to 31: every prefix under
// which a server may accept a write into a room, and every way to spell a path so that one
// reader sees the route and another does not. {room} stands for the room ID.
func pathSpellings(room string) []string {
	escaped := url.PathEscape(room)
	var encodedAll strings.Builder
	for _, b := range []byte(room) {
		encodedAll.WriteString(fmt.Sprintf("%%%02X", b))
	}
	var paths []string
	for _, prefix := range []string{
		"client/r0", "client/v1", "client/v2", "client/v3", "client/v4", "client/unstable", "client/api/v1", "client/v2_alpha",
		"client/unstable/org.matrix.msc3916", "client/V3", "client/%763", "Client/v3", "client//v3", "client/./v3", "client/x/../v3",
		"client/v3/", "client/v3;x=y", "client/v3%2F", "client%2Fv3",
	} {
		paths = append(paths, "/_matrix/"+prefix+"/rooms/"+escaped+"/send/m.room.message/txn",
			"/_matrix/"+prefix+"/rooms/"+escaped+"/send/m.room.message")
	}
	const v3 = "/_matrix/client/v3/rooms/"
	for _, tail := range []string{
		"/send/m.room.message/txn", "/send/m.room.message/txn/", "/send/m.room.message/txn/more", "/send//m.room.message/txn",
		"/send/m.room.message//txn", "/send/m.room.message/", "/send/m%2Eroom%2Emessage/txn", "/send/m.room.message%2Ftxn",
		"/%73end/m.room.message/txn", "/%2573end/m.room.message/txn", "/SEND/m.room.message/txn", "/send/m.room.message/../m.room.message/txn",
		"/./send/m.room.message/txn", "/x/../send/m.room.message/txn", "/x/%2e%2e/send/m.room.message/txn", "/send;x/m.room.message/txn",
		"/send/m.room.message;x/txn", "/send/m.room.message/txn;x=y", "/send/m.room.message/txn%00", "/send/m.room.message/txn%0d%0a",
		"/send/m.room.message/txn%23x", "/send/m.room.message/txn?x=/../..", "/send\\m.room.message\\txn", "%2Fsend/m.room.message/txn",
		"/send/m.room.encrypted/txn", "/send/m.room.Encrypted/txn", "/send/m.room.encrypted%20/txn", "/send/m.room.redaction/txn",
		"/send/m.sticker/txn", "/send/org.example.anything/txn",
	} {
		paths = append(paths, v3+escaped+tail)
	}
	for _, id := range []string{room, encodedAll.String(), strings.ToUpper(escaped), url.PathEscape(escaped), room + "%20", "%20" + room, room + "/", room + "."} {
		paths = append(paths, v3+id+"/send/m.room.message/txn")
	}
	for _, start := range []string{"/", "/.", "/x/..", "/%2e", "http://other.example"} {
		paths = append(paths, start+v3+escaped+"/send/m.room.message/txn")
	}
	return append(paths, "/%5Fmatrix/client/v3/rooms/"+escaped+"/send/m.room.message/txn", "/_MATRIX/client/v3/rooms/"+escaped+"/send/m.room.message/txn")
}

// Attacks 29, 30: every spelling of a path that writes into an encrypted room, with every
// method: the homeserver, which records what it gets, sees no plaintext. The spellings that
// are right arrive encrypted.
func TestNoWayRoundEncryption(t *testing.T) {
	t.Parallel()
	s := liar.New(t)
	b := s.Login("bob", "BOB")
	room := s.CreateRoom(true, b.UserID)
	proxy := testproxy.Start(t, s.URL, testproxy.Options{})
	bob := newCurl(t, proxy.URL, tesths.Account{UserID: b.UserID, DeviceID: b.DeviceID, AccessToken: b.Token})
	bob.SendText(room, "CANARY-0-")
	if len(s.Requests(liar.Is("PUT", "/send/m.room.encrypted/"))) != 1 {
		t.Fatal("an ordinary send did not arrive encrypted")
	}
	sent := map[string]string{}
	n := 0
	for _, path := range pathSpellings(room) {
		for _, method := range []string{"PUT", "POST", "PATCH", "GET", "HEAD", "DELETE", "OPTIONS", "put", "Post", "PROPFIND"} {
			n++
			canary := fmt.Sprintf("CANARY-%d-", n)
			sent[canary] = method + " " + path
			content := fmt.Sprintf(`{"msgtype":"m.text","body":"%s"}`, canary)
			if strings.Contains(path, "m.room.redaction") {
				content = fmt.Sprintf(`{"redacts":"$x","text":"%s"}`, canary)
			}
			if _, err := raw(proxy.URL, method, path, b.Token, content); err != nil {
				t.Errorf("%s %s: %v", method, path, err)
			}
		}
	}
	for canary, what := range sent {
		if s.PlaintextSeen(canary) {
			t.Errorf("%s passed plaintext to the homeserver", what)
		}
	}
	t.Logf("%d requests, %d of them arrived as ciphertext", n, len(s.Requests(liar.Is("PUT", "/send/m.room.encrypted/")))-1)
}

// raw sends a request byte for byte, past net/http's care for paths, and returns the
// status.
func raw(base, method, target, token, body string) (int, error) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return 0, err
	}
	_, err = fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\nAuthorization: Bearer %s\r\n"+
		"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", method, target, token, len(body), body)
	if err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// Other things that a client writes into an encrypted room in clear, and what has to
// become of them: state events may pass, they are never encrypted (requirement 20.1);
// an unknown endpoint below a room's write paths may not.
func TestUnknownRoomWritesAreRefused(t *testing.T) {
	t.Parallel()
	s := liar.New(t)
	b := s.Login("bob", "BOB")
	room := url.PathEscape(s.CreateRoom(true, b.UserID))
	proxy := testproxy.Start(t, s.URL, testproxy.Options{})
	for _, path := range []string{
		"/_matrix/client/v9/rooms/" + room + "/send/m.room.message/1",
		"/_matrix/client/v3/rooms/" + room + "/send",
		"/_matrix/client/v3/rooms/" + room + "/send/a/b/c",
		"/_matrix/client/v3/rooms/" + room + "/redact",
		"/_matrix/client/v3/rooms/" + room + "/state/a/b/c",
	} {
		before := len(s.Requests(nil))
		status, err := raw(proxy.URL, "PUT", path, b.Token, `{"body":"CANARY"}`)
		if err != nil || status != http.StatusBadRequest && status != http.StatusNotFound && status != http.StatusMethodNotAllowed {
			t.Errorf("PUT %s answers %d, %v", path, status, err)
		}
		if s.PlaintextSeen("CANARY") {
			t.Errorf("PUT %s reached the homeserver, %d requests before", path, before)
		}
	}
}
