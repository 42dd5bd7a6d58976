package pantalaimon_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/internal/pantalaimon"
)

// What pantalaimon's page shows as an example, and what people write.
func TestReadConfig(t *testing.T) {
	t.Parallel()
	type server struct {
		Name, Homeserver, Listen, Proxy      string
		NoTLSCheck, IgnoreVerification, Ring bool
	}
	for name, row := range map[string]struct {
		text string
		want []server
	}{
		"the example": {"[Default]\nLogLevel = Debug\nSSL = True\nNotifications = On\n\n[local-matrix]\nHomeserver = https://localhost:443\nProxy = http://localhost:8080\nSSL = False\nIgnoreVerification = False\nUseKeyring = yes\n", []server{
			{"local-matrix", "https://localhost:443", "127.0.0.1:8009", "http://localhost:8080", true, false, true},
		}},
		"two, with a default": {"[Default]\nlistenport: 9000\nusekeyring = no\n# a comment\n[one]\nHOMESERVER=https://one.example\n; another\n[two]\nHomeserver = http://two.example/matrix\nListenAddress = 0.0.0.0\nListenPort = 9001\nIgnoreVerification = on\n", []server{
			{"one", "https://one.example", "127.0.0.1:9000", "", false, false, false},
			{"two", "http://two.example/matrix", "0.0.0.0:9001", "", false, true, false},
		}},
		"IPv6, CRLF, an escaped percent sign, a value of two lines": {"\ufeff[x]\r\nHomeserver = https://hs.example/a%%20b\r\nListenAddress = ::1\r\nListenPort = 80\r\nNote = a\r\n   b = c\r\n", []server{
			{"x", "https://hs.example/a%20b", "[::1]:80", "", false, false, true},
		}},
		"nothing":        {"", nil},
		"only a default": {"[Default]\nSSL = False\n", nil},
	} {
		all, err := pantalaimon.ReadConfig(strings.NewReader(row.text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []server
		for _, s := range all {
			got = append(got, server{s.Name, s.Homeserver.String(), s.Listen, s.Proxy, s.NoTLSCheck, s.IgnoreVerification, s.Keyring})
		}
		if diff := cmp.Diff(row.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	for text, want := range map[string]string{
		"Homeserver = https://x\n":             "line 1: a setting stands before the first section",
		"[a]\nnonsense\n":                      "line 2: a line is neither",
		"[]\n":                                 "line 1: a line is neither",
		"[a\n":                                 "line 1: a line is neither",
		"[a]\nSSL = True\n":                    "section a: Homeserver is missing",
		"[a]\nHomeserver = hs.example\n":       "section a: Homeserver is no URL",
		"[a]\nHomeserver = ftp://hs.example\n": "section a: Homeserver is no URL",
		"[a]\nHomeserver = https://x\nListenPort = 0\n":            "section a: ListenPort is no port",
		"[a]\nHomeserver = https://x\nListenPort = 70000\n":        "section a: ListenPort is no port",
		"[a]\nHomeserver = https://x\nListenAddress = somewhere\n": "section a: ListenAddress is no address",
		"[a]\nHomeserver = https://x\nSSL = maybe\n":               "section a: ssl: is neither True nor False",
		"[a]\n" + strings.Repeat("x", 2<<20):                       "read the configuration",
	} {
		if _, err := pantalaimon.ReadConfig(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %s", text, err, want)
		}
	}
}

func FuzzReadConfig(f *testing.F) {
	f.Add("[Default]\nSSL = False\n[a]\nHomeserver = https://hs.example:443\nListenAddress = ::1\n")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := pantalaimon.ReadConfig(strings.NewReader(text))
		for _, s := range all {
			if err != nil || s.Homeserver == nil || s.Listen == "" {
				t.Errorf("%+v, %v", s, err)
			}
		}
	})
}
