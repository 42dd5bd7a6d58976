package controlroom

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/strictjson"
)

// keyForTest is well formed, and nobody's.
const keyForTest = "EsTc LW2K PGiF wKEA 3As5 g5c4 BXwk qeeJ ZJV8 Q9fu gUMN UE4d"

// Of what a person writes only commands are kept, whatever was asked: the rest is a secret, could
// be one, or was meant for somebody else.
func TestOnlyCommandsAreKept(t *testing.T) {
	t.Parallel()
	secretly := &question{secret: true, kept: keptPassword, until: time.Unix(100, 0), then: func(*turn, secret.String) {}}
	yesOrNo := &question{until: time.Unix(100, 0), seq: 1, then: func(*turn, secret.String) {}}
	read := e2ee.ControlGiven{}.With(0, 1, time.Unix(0, 0))
	for name, tc := range map[string]struct {
		asked      *question
		at         int64
		said, kept string
		command    string
	}{
		"a command":                            {nil, 1, "Status", "Status", "status"},
		"with a mark in front":                 {nil, 1, "!devices @bob:hs", "!devices @bob:hs", "devices"},
		"with a colon":                         {nil, 1, "help:", "help:", "help"},
		"a key behind the command":             {nil, 1, "recover " + keyForTest, "recover " + keptKey, "recover"},
		"a key out of nowhere":                 {nil, 1, keyForTest, keptKey, ""},
		"a key in one piece":                   {nil, 1, strings.ReplaceAll(keyForTest, " ", ""), keptKey, ""},
		"nonsense":                             {nil, 1, "hunter2", keptOther, ""},
		"nothing":                              {nil, 1, "", keptOther, ""},
		"a password":                           {secretly, 1, "hunter2", keptPassword, ""},
		"a password that is a command":         {secretly, 1, "status", keptPassword, ""},
		"a password too late":                  {secretly, 200, "hunter2", keptOther, ""},
		"leaving it":                           {secretly, 1, "cancel", "cancel", ""},
		"yes":                                  {yesOrNo, 1, "Yes", "Yes", ""},
		"no":                                   {yesOrNo, 1, "no", "no", ""},
		"neither":                              {yesOrNo, 1, "maybe", keptOther, ""},
		"a command in place of an answer":      {yesOrNo, 1, "status", "status", "status"},
		"yes to nothing":                       {nil, 1, "yes", keptOther, ""},
		"yes too late":                         {yesOrNo, 200, "yes", keptOther, ""},
		"a key in place of an answer":          {yesOrNo, 1, keyForTest, keptKey, ""},
		"what a command does not take":         {nil, 1, "export hunter2", "export", "export"},
		"a password behind a command":          {nil, 1, "setup hunter2", "setup", "setup"},
		"no user":                              {nil, 1, "trust no one with hunter2", "trust", "trust"},
		"more than a user":                     {nil, 1, "accept @bob:hs hunter2", "accept @bob:hs", "acknowledge"},
		"a device":                             {nil, 1, "Trust @bob:hs ABC_d-1 hunter2", "Trust @bob:hs ABC_d-1", "trust"},
		"no device":                            {nil, 1, "undo @bob:hs hunter2! ABC", "undo @bob:hs", "undo"},
		"me":                                   {nil, 1, "verify Me ABC", "verify Me ABC", "verify"},
		"a number":                             {nil, 1, "dismiss 12. 13", "dismiss 12.", "dismiss"},
		"a PIN":                                {nil, 1, "dismiss 123456", "dismiss", "dismiss"},
		"restore":                              {nil, 1, "backup restore hunter2", "backup restore", "backup"},
		"not restore":                          {nil, 1, "backup hunter2", "backup", "backup"},
		"a command with something for another": {nil, 1, "my password is hunter2", keptOther, ""},
	} {
		talk := &talk{now: func() time.Time { return time.Unix(tc.at, 0) }, asked: tc.asked}
		got := talk.understand(said{text: tc.said, given: read})
		kept, err := strictjson.Parse(got.kept)
		if err != nil {
			t.Fatal(err)
		}
		if body := kept.TextOrEmpty("body"); body != tc.kept {
			t.Errorf("%s: kept %q, want %q", name, body, tc.kept)
		}
		switch {
		case got.command != nil:
			if command := got.command.names[0]; command != tc.command {
				t.Errorf("%s: understood as %s", name, command)
			}
		case tc.command != "" || got.answer == nil:
			t.Errorf("%s: not understood", name)
		}
	}
}

// What programs and clients send beside messages is not said by anybody; what old clients put in
// front of an answer does not belong to it.
func TestWhatIsSaid(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]string{
		`{"msgtype":"m.text","body":" status \n"}`:                                                       "status",
		`{"msgtype":"m.text","body":"> <@control:x> Write yes or no.\n> more\n\nyes"}`:                   "yes",
		`{"msgtype":"m.notice","body":"status"}`:                                                         "",
		`{"msgtype":"m.emote","body":"status"}`:                                                          "",
		`{"msgtype":"m.text","body":"* status","m.relates_to":{"rel_type":"m.replace","event_id":"$x"}}`: "",
		`{"body":"status"}`: "",
	} {
		parsed, err := strictjson.Parse([]byte(content))
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := readSaid("m.room.message", parsed); got.text != want || ok != (want != "") {
			t.Errorf("%s: %q, %v", content, got.text, ok)
		}
		if _, ok := readSaid("m.reaction", parsed); ok {
			t.Errorf("%s is taken for a message although it is a reaction", content)
		}
	}
}

// No text for people has a word that they would have to look up, or an address of the control API:
// every text in this package, and those of the room itself and of warnings, which it says.
func TestWordsForPeople(t *testing.T) {
	t.Parallel()
	jargon := regexp.MustCompile(`(?i)cross-?sign|\bmaster|megolm|\bolm\b|ratchet|\bsessions?\b|\bssss\b|secret storage|_e2ee_proxy|(?-i:\bPOST\b|\bGET\b)|\bpin(s|ned)?\b|\bSAS\b|ed25519|curve25519|\bMSC\d|\bOTK|one-time|to-device|plaintext|ciphertext|\bJSON\b|—`)
	n := 0
	for _, dir := range []string{".", "../../../e2ee/internal/controlroom", "../../../e2ee/internal/notices"} {
		for _, text := range textsIn(t, dir) {
			n++
			if word := jargon.FindString(text); word != "" {
				t.Errorf("%s: %q has %q", dir, text, word)
			}
		}
	}
	if n < 150 {
		t.Errorf("only %d texts were found", n)
	}
}

// textsIn returns the sentences in the Go files of a folder, but for those that are for the log or
// for programs: they are given to fmt.Errorf, errors.New or Msg.
func textsIn(t *testing.T, dir string) (texts []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v", dir, err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				f, ok := n.Fun.(*ast.SelectorExpr)
				return !ok || f.Sel.Name != "Errorf" && f.Sel.Name != "New" && f.Sel.Name != "Msg"
			case *ast.BasicLit:
				if text, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING && strings.Contains(text, " ") {
					texts = append(texts, text)
				}
			}
			return true
		})
	}
	return texts
}
