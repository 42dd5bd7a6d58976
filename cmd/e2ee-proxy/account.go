package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/controlclient"
	"e2ee-proxy/internal/terminal"
)

// Rules of the commands about an account:
//   - They ask the running proxy over its socket, and read no database.
//   - Secrets come from a file, standard input, or a person who types them unseen; never from an
//     argument, which other users of the machine can read.
//   - Standard output has the result: words where it is a terminal, JSON otherwise.
//   - What cannot be undone is asked about, or said with a flag.

// accountFlags are the flags that the commands about an account have in common.
type accountFlags struct {
	settings
	user, device string
	json         jsonFlag
}

// localSettings are the settings by which a command finds the proxy that runs.
func localSettings() []string { return []string{"data", "control_socket"} }

func (a *accountFlags) register(fs *flag.FlagSet) {
	a.offline = true
	fs.StringVar(&a.user, "user", "", "`USER` ID of the account, such as @bot:example.org (required)")
	fs.StringVar(&a.device, "device", "", "`DEVICE` of the account (default: the one used last)")
	fs.Var(&a.json, "json", "print JSON, also on a terminal")
	a.registerSome(fs, localSettings()...)
}

// account is a command about an account that is under way.
type account struct {
	*controlclient.Client
	p    *process
	c    command
	ctx  context.Context
	end  func()
	user id.UserID
	term *terminal.Terminal
	json bool
}

// open reads a command's flags and arguments, with those of fs, and finds the proxy. It returns no
// account where there is nothing left to do, as after --help, and with an error. The caller
// calls close.
func (a *accountFlags) open(p *process, c command, fs *flag.FlagSet, args []string) (_ *account, rest []string, err error) {
	a.register(fs)
	rest, done, err := p.parseArgs(c, fs, args)
	if done || err != nil {
		return nil, nil, err
	}
	out, err := a.find(p, c)
	return out, rest, err
}

// find finds the proxy, for what the flags say.
func (a *accountFlags) find(p *process, c command) (*account, error) {
	if _, _, err := id.UserID(a.user).Parse(); err != nil {
		return nil, usageErrorOf(c, "--user needs a user ID such as @bot:example.org", "")
	}
	cfg, err := a.load(p)
	if err != nil {
		return nil, err
	}
	path := cfg.ControlSocketPath()
	if path == "" {
		return nil, &failure{exitConfig, errors.New("control_socket is off, so that the running proxy cannot be asked"), "remove the setting, and restart the proxy"}
	}
	out := &account{
		Client: controlclient.BySocket(path, id.UserID(a.user), id.DeviceID(a.device)), p: p, c: c,
		user: id.UserID(a.user), term: p.terminal(),
	}
	out.json = a.json.value(!out.term.Shows)
	out.ctx, out.end = signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	return out, nil
}

func (a *account) close() { a.end(); a.Close() }

// jsonFlag is a switch of which it is known whether it was said.
type jsonFlag struct{ said, on bool }

func (j *jsonFlag) String() string { return "" }

func (j *jsonFlag) Set(text string) error {
	on, err := strconv.ParseBool(text)
	if err != nil {
		return errors.New("is true or false")
	}
	j.said, j.on = true, on
	return nil
}

func (*jsonFlag) IsBoolFlag() bool { return true }
func (*jsonFlag) Kind() string     { return "true|false" }
func (*jsonFlag) Default() string  { return "default: when standard output is no terminal" }

func (j *jsonFlag) value(otherwise bool) bool {
	if j.said {
		return j.on
	}
	return otherwise
}

// printJSON prints an answer as the proxy gave it.
func (p *process) printJSON(v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return p.print(string(raw) + "\n")
}

// print prints a result: words for a person, or the answer.
func (a *account) print(words string, answer any) error {
	if a.json {
		return a.p.printJSON(answer)
	}
	return a.p.print(words)
}

// fail turns an error of the proxy into one for a person at a shell.
func (a *account) fail(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) {
		return &failure{exitRuntime, errors.New("ended by a signal"), "what the proxy has begun it may finish: look with e2ee-proxy status --user " + a.user.String()}
	}
	if errors.Is(err, controlclient.ErrNotRunning) {
		return &failure{exitRuntime, err, "is the proxy running, and does it have the same data and control_socket? flags of serve are not known here: use the environment or the file for both"}
	}
	if errors.Is(err, os.ErrPermission) {
		return &failure{exitRuntime, errors.New("only the user whom the proxy runs as, and the administrator, may ask it"), "run this as that user, such as with: sudo -u e2ee-proxy"}
	}
	if said := (*controlclient.RefusedError)(nil); errors.As(err, &said) {
		if said.ErrCode == "M_NOT_FOUND" && strings.Contains(said.Text, "has used the proxy") {
			return &failure{exitRuntime, errors.New("no device of " + a.user.String() + " uses this proxy, or not this one"),
				"log in through the proxy first; the devices are listed by: e2ee-proxy devices --user " + a.user.String()}
		}
		if said.ErrCode == "M_LIMIT_EXCEEDED" {
			return &failure{exitRuntime, errors.New("that was tried too often; nothing was changed"), "try it again in " + waitOf(said.Body).String()}
		}
		return &failure{exitRuntime, errors.New(strings.TrimSuffix(commandsFor(said.Text, a.user), ".")), ""}
	}
	return err
}

// waitOf is how long a refusal says to wait.
func waitOf(body json.RawMessage) time.Duration {
	var said struct {
		RetryAfter int64 `json:"retry_after_ms"`
	}
	// What says nothing of it asks for the shortest wait.
	_ = json.Unmarshal(body, &said)
	return max(time.Second, time.Duration(said.RetryAfter)*time.Millisecond).Round(time.Second)
}

var (
	callOfPerson  = regexp.MustCompile(`(?:GET|POST|PUT) /_e2ee_proxy/v1/users/\{userId\}/(acknowledge|withdraw_verification)`)
	callOfAccount = regexp.MustCompile(`(?:GET|POST|PUT) /_e2ee_proxy/v1/(status|bootstrap|recover|reset|warnings)`)
)

// commandsFor replaces the calls that a text of the proxy names by the commands that make them.
func commandsFor(text string, user id.UserID) string {
	text = terminal.Clean(text)
	text = callOfPerson.ReplaceAllStringFunc(text, func(call string) string {
		if strings.HasSuffix(call, "acknowledge") {
			return "e2ee-proxy acknowledge --user " + user.String() + " USER"
		}
		return "e2ee-proxy acknowledge --withdraw --user " + user.String() + " USER"
	})
	text = strings.ReplaceAll(text, `Say "confirm": true if that is what you want.`, "")
	return callOfAccount.ReplaceAllString(text, "e2ee-proxy $1 --user "+user.String())
}

// registerSome adds the flags of some settings only, and --config.
func (s *settings) registerSome(fs *flag.FlagSet, paths ...string) {
	s.registerFile(fs)
	s.flags.RegisterSome(fs, paths...)
}

// terminal returns how the process talks to a person.
func (p *process) terminal() *terminal.Terminal {
	if p.person == nil {
		p.person = terminal.New(p.stdin, p.stdout, p.stderr, p.environ)
	}
	return p.person
}

var _ selfDescribing = (*jsonFlag)(nil)

// asUser is how a command is written that helps.
func asUser(c string, user id.UserID) string { return "e2ee-proxy " + c + " --user " + user.String() }
