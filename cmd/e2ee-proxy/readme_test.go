package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"e2ee-proxy/internal/liar"
)

// The commands that scripts have for trying what a page tells its readers to type.

// page is a page of documentation, as far as a reader would type it.
type page struct {
	blocks []string // code blocks, and commands within sentences
	tried  []bool
}

type pageKey struct{}

// readBlocks returns the indented code blocks of a page and its code spans that are
// commands.
func readBlocks(text string) []string {
	var blocks []string
	var block strings.Builder
	end := func() {
		if text := strings.TrimRight(block.String(), "\n"); text != "" {
			blocks = append(blocks, text+"\n")
		}
		block.Reset()
	}
	var prose strings.Builder
	for line := range strings.Lines(text) {
		code, indented := strings.CutPrefix(line, "    ")
		switch {
		case indented:
			block.WriteString(code)
		case strings.TrimSpace(line) == "" && block.Len() > 0:
			block.WriteString("\n")
		default:
			end()
			prose.WriteString(line)
		}
	}
	end()
	for _, span := range regexp.MustCompile("`((?:make|curl|e2ee-proxy|docker|openssl)\\s[^`]+)`").FindAllStringSubmatch(prose.String(), -1) {
		blocks = append(blocks, strings.Join(strings.Fields(span[1]), " ")+"\n")
	}
	return blocks
}

// pageCommand is "page FILE": reads a page of the repository, whose blocks are to be tried.
func pageCommand(ts *testscript.TestScript, neg bool, args []string) {
	p, ok := ts.Value(pageKey{}).(*page)
	if neg || !ok || len(args) != 1 {
		ts.Fatalf("usage: page FILE")
	}
	text, err := os.ReadFile(filepath.Join(ts.Getenv("REPOSITORY"), args[0]))
	ts.Check(err)
	p.blocks = readBlocks(string(text))
	p.tried = make([]bool, len(p.blocks))
	if len(p.blocks) == 0 {
		ts.Fatalf("%s has no code", args[0])
	}
}

// block is "block NAME PATTERN [OLD NEW]…": writes the blocks that match to a file, the
// first of them only when they differ, with what has to be other in a test replaced.
func block(ts *testscript.TestScript, neg bool, args []string) {
	p, ok := ts.Value(pageKey{}).(*page)
	if neg || !ok || len(args) < 2 || len(args)%2 != 0 {
		ts.Fatalf("usage: block NAME PATTERN [OLD NEW]…")
	}
	pattern, err := regexp.Compile(args[1])
	ts.Check(err)
	found := ""
	for i, text := range p.blocks {
		if !pattern.MatchString(strings.TrimSpace(text)) {
			continue
		}
		if found != "" && found != text {
			ts.Fatalf("%s matches two blocks:\n%s\n%s", args[1], found, text)
		}
		found, p.tried[i] = text, true
	}
	if found == "" {
		ts.Fatalf("%s matches no block of the page", args[1])
	}
	for i := 2; i < len(args); i += 2 {
		if !strings.Contains(found, args[i]) {
			ts.Fatalf("%q is not in the block:\n%s", args[i], found)
		}
		found = strings.ReplaceAll(found, args[i], args[i+1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(found), 0o600))
}

// alltried fails for every block of the page that the script has not taken.
func alltried(ts *testscript.TestScript, _ bool, _ []string) {
	p, ok := ts.Value(pageKey{}).(*page)
	if !ok {
		ts.Fatalf("there is no page")
		return
	}
	for i, text := range p.blocks {
		if !p.tried[i] {
			ts.Fatalf("no test tries this:\n%s", text)
		}
	}
}

// town is "town NAME…": starts a homeserver that does all that the proxy needs, with a user
// of each name in one encrypted room. It sets HOMESERVER, ROOM, and NAME_ID and
// NAME_PASSWORD of each.
func town(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: town NAME…")
	}
	hs := liar.New(stage{ts})
	ts.Setenv("HOMESERVER", hs.URL)
	users := make([]string, 0, len(args))
	for _, name := range args {
		user, password := hs.AddUser(name)
		users = append(users, user)
		ts.Setenv(name+"_ID", user)
		ts.Setenv(name+"_PASSWORD", password)
	}
	ts.Setenv("ROOM", hs.CreateRoom(true, users...))
}

// stage lets a homeserver end with the script.
type stage struct{ ts *testscript.TestScript }

func (s stage) Helper()          {}
func (s stage) Cleanup(f func()) { s.ts.Defer(f) }
