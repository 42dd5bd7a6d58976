package attachment

import (
	"strings"
	"testing"

	"e2ee-proxy/internal/strictjson"
)

// An EncryptedFile is read strictly: with anything missing, of another kind or of another length
// it is none.
func TestEncryptedFilesAreReadStrictly(t *testing.T) {
	t.Parallel()
	f := File{URL: "mxc://hs.example:8448/aB-_1", Key: newKey()}
	good := string(f.encrypted())
	read := func(text string) (File, bool) {
		o, err := strictjson.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return readEncrypted(o)
	}
	if got, ok := read(good); !ok || got != f {
		t.Errorf("%v: %+v", ok, got)
	}
	replaced := func(from, to string) string {
		out := strings.Replace(good, from, to, 1)
		if out == good {
			t.Fatalf("%s is not in %s", from, good)
		}
		return out
	}
	for _, text := range []string{
		`{}`, replaced(`"v":"v2"`, `"v":"v3"`), replaced(`"v":"v2"`, `"v":2`), replaced(`A256CTR`, `A256GCM`), replaced(`"oct"`, `"RSA"`),
		replaced(`"k":"`, `"k":"A`), replaced(`"iv":"`, `"iv":"`+"AAAA"), replaced(`"sha256":"`, `"sha512":"`), replaced(`mxc://`, `https://`),
		replaced(`/aB-_1`, `/../x`), replaced(`/aB-_1`, `/a/b`), replaced(`/aB-_1`, ``), replaced(`/aB-_1`, `/a%2fb`),
	} {
		if got, ok := read(text); ok {
			t.Errorf("%s: %+v", text, got)
		}
	}
	if _, ok := read(replaced(`,"v":"v2"`, ``)); !ok {
		t.Error("one without a version, of old clients, is refused")
	}
}

// Content URIs are found in texts with what is around them left out.
func TestURIsInTexts(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`mxc://a/b`: `mxc://a/b`, `<img src="mxc://a.b:1/c-_D">`: `mxc://a.b:1/c-_D`, `see mxc://a/b.`: `mxc://a/b`,
		`mxc://`: ``, `mxc://a`: ``, `mxc:///b`: ``, `mxc://a/`: ``, `mxc://x mxc://[::1]:8448/c`: `mxc://[::1]:8448/c`, `mxc://a//b`: ``,
	} {
		from, to, ok := NextURI(text)
		if ok != (want != "") || text[from:to] != want {
			t.Errorf("%s: %q, want %q", text, text[from:to], want)
		}
		if _, _, valid := SplitURI(want); want != "" && !valid {
			t.Errorf("%s is not taken", want)
		}
	}
}
