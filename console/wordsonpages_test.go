package console

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"e2ee-proxy/e2ee"
)

// There is nobody to ask: the page says which, and what to do.
func TestNobodyToVerifyWith(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.signIn("alice")
	dev := r.accounts.of(alice)
	dev.set(func() { dev.fail["request"] = e2ee.ErrUnknownDevice })
	r.wantText(r.post("/verifications", "/verifications", "own", "yes"), 404, "no other device with encryption", "such as Element")
	r.wantText(r.post("/verifications", "/verifications", "user_id", "@bob:hs"), 404, "@bob:hs has no device with encryption")
}

// No page has a word that a person would have to look up.
func TestWordsOnPages(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("templates/*.html")
	if err != nil || len(files) < 15 {
		t.Fatalf("%d templates, %v", len(files), err)
	}
	markup := regexp.MustCompile(`(?s)\{\{.*?\}\}|<[^>]*>`)
	jargon := regexp.MustCompile(`(?i)cross-?sign|\bmaster|megolm|\bolm\b|ratchet|\bssss\b|secret storage|_e2ee_proxy|\bpin(s|ned)?\b|\bSAS\b|ed25519|curve25519|\bMSC\d|one-time|to-device|plaintext|ciphertext|\bJSON\b|—`)
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if word := jargon.FindString(markup.ReplaceAllString(string(raw), " ")); word != "" {
			t.Errorf("%s has %q", file, word)
		}
	}
}
