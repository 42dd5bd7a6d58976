package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/config"
	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/controlclient"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/terminal"
	"e2ee-proxy/proxy"
)

// doctor walks along everything that a conversation needs, from the configuration to a message
// to itself, and says of each link how it stands and what mends it.
func doctor(p *process, c command, args []string) error {
	d := patient{p: p, c: c, settings: settings{offline: true}}
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	fs.StringVar(&d.user, "user", "", "`USER` ID of the account, such as @bot:example.org")
	fs.StringVar(&d.device, "device", "", "`DEVICE` of the account (default: the one used last)")
	fs.StringVar(&d.tokenFile, "token-file", "", "`FILE` with an access token, instead of --user: then the proxy is asked at listen, or public_url")
	fs.BoolVar(&d.talk, "talk", false, "send a message to itself too, in a room that is made for it and left")
	fs.Var(&d.json, "json", "print JSON, also on a terminal")
	d.registerSome(fs, append(localSettings(), "homeserver", "listen", "public_url", "upstream.ca_file")...)
	if done, err := p.parse(c, fs, args); done || err != nil {
		return err
	}
	if d.user != "" && d.tokenFile != "" {
		return usageErrorOf(c, "--user and --token-file exclude each other", "")
	}
	if _, _, err := id.UserID(d.user).Parse(); d.user != "" && err != nil {
		return usageErrorOf(c, "--user needs a user ID such as @bot:example.org", "")
	}
	ctx, end := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer end()
	if err := d.walk(ctx); err != nil {
		return err
	}
	return d.tell()
}

// patient is what the doctor looks at.
type patient struct {
	p *process
	c command
	settings
	user, device, tokenFile string
	talk                    bool
	json                    jsonFlag
	links                   []e2ee.CheckupLink
}

func (d *patient) add(name string, state e2ee.CheckupState, message, why, hint string) {
	d.links = append(d.links, e2ee.CheckupLink{Name: name, State: state, Message: message, Why: why, Hint: hint})
}

// walk goes along the chain until a link is missing that the others hang on.
func (d *patient) walk(ctx context.Context) error {
	cfg, err := d.load(d.p)
	if problems := (*config.Error)(nil); errors.As(err, &problems) {
		d.add("configuration", e2ee.CheckupBroken, err.Error(), "The proxy does not start with it.", "Correct it, and look with: e2ee-proxy config check.")
		return nil
	}
	if err != nil {
		return err
	}
	d.add("configuration", e2ee.CheckupOK, "It can be read.", "", "")
	transport, err := proxy.NewTransport(cfg.Upstream.CAFile, cfg.Upstream.ConnectTimeout, doctorPatience, doctorPatience)
	if err != nil {
		d.add("homeserver", e2ee.CheckupBroken, "The certificates of upstream.ca_file cannot be read.", "By them the homeserver is recognised.", "Name a file with certificates in PEM form.")
		return nil
	}
	defer transport.CloseIdleConnections()
	d.homeserver(ctx, cfg, transport)
	client, err := d.client(cfg, transport)
	if err != nil || client == nil {
		return err
	}
	defer client.Close()
	d.checkup(ctx, client)
	if name := id.UserID(d.user).Homeserver(); name != "" {
		d.way(ctx, cfg, name, transport)
	}
	return nil
}

// client returns how the proxy is asked; nil if there is nobody to ask for.
func (d *patient) client(cfg *config.Config, transport http.RoundTripper) (*controlclient.Client, error) {
	if d.tokenFile != "" {
		token, err := readSecretFile(d.tokenFile)
		if err != nil {
			return nil, err
		}
		return controlclient.ByToken(clientsURL(cfg), transport, token), nil
	}
	switch path := cfg.ControlSocketPath(); {
	case d.user == "":
		d.add("proxy", e2ee.CheckupUnknown, "It was not asked: say for whom with --user or --token-file.", "", "")
		return nil, nil
	case path == "":
		d.add("proxy", e2ee.CheckupUnknown, "It cannot be asked: control_socket is off.", "", "")
		return nil, nil
	default:
		return controlclient.BySocket(path, id.UserID(d.user), id.DeviceID(d.device)), nil
	}
}

// clientsURL is where clients reach the proxy.
func clientsURL(cfg *config.Config) *url.URL {
	if !cfg.PublicURL.IsZero() {
		return cfg.PublicURL.URL()
	}
	return &url.URL{Scheme: "http", Host: cfg.Listen}
}

// checkup has the running proxy look at the device.
func (d *patient) checkup(ctx context.Context, client *controlclient.Client) {
	var said struct {
		Links []e2ee.CheckupLink `json:"links"`
	}
	err := client.Post(ctx, "checkup", map[string]bool{"talk": d.talk}, &said)
	if err == nil && d.user == "" {
		var s e2ee.Status
		if err = client.Get(ctx, "status", &s); err == nil {
			d.user = s.UserID.String()
		}
	}
	refused := (*controlclient.RefusedError)(nil)
	switch {
	case err == nil:
		d.add("proxy", e2ee.CheckupOK, "It answers.", "", "")
		d.links = append(d.links, said.Links...)
	case errors.As(err, &refused):
		d.add("proxy", e2ee.CheckupOK, "It answers.", "", "")
		d.refused(refused)
	case errors.Is(err, os.ErrPermission):
		d.add("proxy", e2ee.CheckupUnknown, "Only the user whom it runs as, and the administrator, may ask it.", "", "Run this as that user, such as with sudo -u e2ee-proxy.")
	default:
		d.add("proxy", e2ee.CheckupBroken, terminal.Clean(err.Error())+".", "Nothing is encrypted or decrypted while it does not run.",
			"Is it running, with the same data and control_socket? Flags of serve are not known here: use the environment or the file for both.")
	}
}

// refused says what it means that the proxy does not look at the device.
func (d *patient) refused(said *controlclient.RefusedError) {
	const why = "The proxy speaks to the homeserver with it, also while no client does."
	text := terminal.Clean(said.Text)
	switch said.ErrCode {
	case "M_UNKNOWN_TOKEN", "M_MISSING_TOKEN", "DEV.E2EE_PROXY.SESSION_ENDED":
		d.add("token", e2ee.CheckupBroken, text, why, "Log in again through the proxy.")
	case "M_NOT_FOUND":
		d.add("device", e2ee.CheckupBroken, text, "The proxy can act only for a device that has used it.",
			"Log in through the proxy. The devices are listed by: e2ee-proxy devices --user "+d.user+".")
	default:
		d.add("device", e2ee.CheckupBroken, text, why, "Look into the proxy's log.")
	}
}

// readSecretFile reads a file with a secret.
func readSecretFile(file string) (secret.String, error) {
	return (&account{}).secretFrom(file, "")
}

// severity returns the worst state of the links.
func (d *patient) severity() e2ee.CheckupState {
	worst := e2ee.CheckupOK
	for i := range d.links {
		switch d.links[i].State {
		case e2ee.CheckupBroken:
			return e2ee.CheckupBroken
		case e2ee.CheckupCareful:
			worst = e2ee.CheckupCareful
		case e2ee.CheckupOK, e2ee.CheckupUnknown:
		}
	}
	return worst
}

// tell prints what was found. The exit code is that of the worst of it.
func (d *patient) tell() error {
	for i := range d.links {
		l := &d.links[i]
		l.Message, l.Hint = terminal.Clean(l.Message), strings.TrimSpace(commandsFor(l.Hint, id.UserID(d.user)))
	}
	t, worst := d.p.terminal(), d.severity()
	if d.json.value(!t.Shows) {
		err := d.p.printJSON(struct {
			State e2ee.CheckupState  `json:"state"`
			Links []e2ee.CheckupLink `json:"links"`
		}{worst, d.links})
		return errors.Join(err, d.outcome(worst))
	}
	return errors.Join(d.p.print(linksText(t, d.links)), d.outcome(worst))
}

func (d *patient) outcome(worst e2ee.CheckupState) error {
	switch worst {
	case e2ee.CheckupBroken:
		return &failure{exitBroken, errors.New("something is broken: begin with the first link that is marked so"), ""}
	case e2ee.CheckupCareful:
		return &failure{exitCareful, errors.New("messages pass, and something is to be done"), ""}
	case e2ee.CheckupOK, e2ee.CheckupUnknown:
	}
	return nil
}

// linksText returns the links in words.
func linksText(t *terminal.Terminal, links []e2ee.CheckupLink) string {
	var b strings.Builder
	for i := range links {
		l := &links[i]
		style, mark := terminal.Faint, "?"
		switch l.State {
		case e2ee.CheckupOK:
			style, mark = terminal.Good, "ok"
		case e2ee.CheckupCareful:
			style, mark = terminal.Careful, "!"
		case e2ee.CheckupBroken:
			style, mark = terminal.Bad, "NO"
		case e2ee.CheckupUnknown:
		}
		head := fmt.Sprintf("%-3s%-16s", mark, strings.ReplaceAll(l.Name, "_", " "))
		text := terminal.Wrap(l.Message, 19, head)
		b.WriteString(strings.Replace(text, mark, t.Paint(style, mark), 1))
		if l.Why != "" {
			b.WriteString(terminal.Wrap(l.Why, 19, ""))
		}
		if l.Hint != "" {
			b.WriteString(terminal.Wrap(l.Hint, 19, strings.Repeat(" ", 17)+"> "))
		}
	}
	return b.String()
}
