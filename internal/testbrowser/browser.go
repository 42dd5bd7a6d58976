package testbrowser

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproc"
)

// Deadline bounds every call, and every wait for something to be seen.
const Deadline = 30 * time.Second

// PicturesVariable names the environment variable with the folder for pictures of pages; by
// default it is pictures below the cache.
const PicturesVariable = "E2EE_PROXY_TEST_PICTURES"

// Browser is a running browser.
type Browser struct {
	t     testproc.TB
	host  *testpeer.Host
	pages atomic.Int64
}

// Start starts a browser, which ends with the test.
func Start(t testproc.TB) *Browser {
	t.Helper()
	chromium, err := findChromium()
	if err != nil {
		testproc.Missing(t, "headless Chromium", err)
	}
	node, program, err := testproc.NodeProgram(t.Context(), "browser")
	if err != nil {
		testproc.Missing(t, "Node with puppeteer-core and axe-core", err)
	}
	cmd := exec.Command(node, "--no-warnings", filepath.Join(program, "main.mjs"))
	cmd.Env = append(os.Environ(), "E2EE_PROXY_CHROMIUM="+chromium)
	return &Browser{t: t, host: testpeer.StartHost(t, "browser", cmd)}
}

func findChromium() (string, error) {
	for _, name := range []string{"chromium-headless-shell", "chromium", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("there is no chromium-headless-shell, chromium or google-chrome")
}

// Look is how a page is looked at. Zero values leave it as it was.
type Look struct {
	Width, Height int
	Dark          bool
	NoScript      bool
	Language      string
}

// Page is one window, with cookies of its own.
type Page struct {
	t    testproc.TB
	b    *Browser
	name string
}

// Open opens a window.
func (b *Browser) Open(l Look) *Page {
	b.t.Helper()
	p := &Page{b.t, b, strconv.FormatInt(b.pages.Add(1), 10)}
	if l.Width == 0 {
		l.Width = 1100
	}
	p.Look(l)
	return p
}

func (p *Page) try(cmd string, args map[string]any, result any) error {
	all := map[string]any{"page": p.name, "timeout": Deadline.Milliseconds()}
	maps.Copy(all, args)
	return p.b.host.Call(2*Deadline, cmd, all, result)
}

func (p *Page) do(cmd string, args map[string]any, result any) {
	p.t.Helper()
	if err := p.try(cmd, args, result); err != nil {
		var text string
		_ = p.try("text", nil, &text)
		p.t.Fatalf("%v\nthe page says:\n%s", err, text)
	}
}

// Look changes how the page is looked at.
func (p *Page) Look(l Look) {
	p.t.Helper()
	p.do("look", map[string]any{"width": l.Width, "height": l.Height, "dark": l.Dark, "script": !l.NoScript, "language": l.Language}, nil)
}

// Goto opens a URL and returns the status of the answer.
func (p *Page) Goto(url string) (status int) {
	p.t.Helper()
	p.do("goto", map[string]any{"url": url}, &status)
	return status
}

// Fill types into a field.
func (p *Page) Fill(selector, text string) {
	p.t.Helper()
	p.do("fill", map[string]any{"selector": selector, "text": text}, nil)
}

// Upload chooses a file in a field.
func (p *Page) Upload(selector, file string) {
	p.t.Helper()
	p.do("upload", map[string]any{"selector": selector, "file": file}, nil)
}

// Press presses what has the words on it; no page follows. Follow waits for the page that does.
func (p *Page) Press(words string) {
	p.t.Helper()
	p.do("press", map[string]any{"words": words}, nil)
}

// Follow is described at Press.
func (p *Page) Follow(words string) {
	p.t.Helper()
	p.do("press", map[string]any{"words": words, "follows": true}, nil)
}

// Key presses a key; FollowKey waits for the page that follows.
func (p *Page) Key(key string) {
	p.t.Helper()
	p.do("key", map[string]any{"key": key}, nil)
}

// FollowKey is described at Key.
func (p *Page) FollowKey(key string) {
	p.t.Helper()
	p.do("key", map[string]any{"key": key, "follows": true}, nil)
}

// Focus is the element that has the keyboard.
type Focus struct {
	Tag, ID, Type, Words string
	// Visible reports whether a person sees that it has.
	Visible bool
}

// Focused returns the element that has the keyboard.
func (p *Page) Focused() (f Focus) {
	p.t.Helper()
	p.do("focused", nil, &f)
	return f
}

// Text returns what a person reads.
func (p *Page) Text() (text string) {
	p.t.Helper()
	p.do("text", nil, &text)
	return text
}

// URL returns where the page is.
func (p *Page) URL() (url string) {
	p.t.Helper()
	p.do("url", nil, &url)
	return url
}

// Await waits until the page has a text.
func (p *Page) Await(text string) {
	p.t.Helper()
	p.do("awaitText", map[string]any{"text": text}, nil)
}

// Wants fails the test if the page has not all of the texts.
func (p *Page) Wants(texts ...string) {
	p.t.Helper()
	all := strings.Join(strings.Fields(p.Text()), " ")
	for _, text := range texts {
		if !strings.Contains(all, text) {
			p.t.Errorf("the page does not say %q:\n%s", text, all)
		}
	}
}

// Faults returns what axe-core finds.
func (p *Page) Faults() (faults []string) {
	p.t.Helper()
	p.do("faults", nil, &faults)
	return faults
}

// Overflow returns how many pixels the page is wider than its window.
func (p *Page) Overflow() (pixels int) {
	p.t.Helper()
	p.do("overflow", nil, &pixels)
	return pixels
}

// Count returns how many elements a selector finds.
func (p *Page) Count(selector string) (n int) {
	p.t.Helper()
	p.do("count", map[string]any{"selector": selector}, &n)
	return n
}

// InPage runs an expression as a script of the page would.
func (p *Page) InPage(script string, result any) {
	p.t.Helper()
	p.do("inPage", map[string]any{"script": script}, result)
}

// Complaints returns what the browser complained about so far.
func (p *Page) Complaints() (all []string) {
	p.t.Helper()
	p.do("complaints", nil, &all)
	return all
}

// Picture keeps a picture of the whole page, and returns it.
func (p *Page) Picture(name string) []byte {
	p.t.Helper()
	dir, err := Pictures()
	if err != nil {
		p.t.Fatalf("keep a picture: %v", err)
	}
	file := filepath.Join(dir, name+".png")
	p.do("shot", map[string]any{"file": file}, nil)
	picture, err := os.ReadFile(file)
	if err != nil {
		p.t.Fatalf("keep a picture: %v", err)
	}
	return picture
}

// Pictures returns the folder with the pictures of pages, which it makes.
func Pictures() (string, error) {
	dir := os.Getenv(PicturesVariable)
	if dir == "" {
		root, err := testproc.Root()
		if err != nil {
			return "", fmt.Errorf("find the folder for pictures: %w", err)
		}
		dir = filepath.Join(root, ".cache", "pictures")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find the folder for pictures: %w", err)
	}
	return dir, os.MkdirAll(dir, 0o755)
}
