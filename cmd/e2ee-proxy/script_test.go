package main

import (
	"flag"
	"os/exec"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"e2ee-proxy/internal/testproc"
)

var update = flag.Bool("update", false, "write what the scripts compare with")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"e2ee-proxy": main})
}

// The scripts are the specification of the command line.
func TestScripts(t *testing.T) {
	t.Parallel()
	runScripts(t, "testdata/script")
}

// What the pages of documentation tell their readers to type does what they say.
func TestPages(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"bash", "curl", "jq", "make", "openssl"} {
		if _, err := exec.LookPath(program); err != nil {
			testproc.Missing(t, program, err)
		}
	}
	runScripts(t, "testdata/pages")
}

func runScripts(t *testing.T, dir string) {
	testscript.Run(t, testscript.Params{Dir: dir, RequireExplicitExec: true, RequireUniqueNames: true, UpdateScripts: *update, Setup: setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "ports": ports, "homeserver": homeserver, "release": release, "get": get, "begin": begin, "end": end,
			"page": pageCommand, "block": block, "alltried": alltried, "town": town, "issue": issue, "gettls": gettls, "await": await,
		}})
}
