package main

import (
	"errors"
	"flag"
	"fmt"
	"net/url"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/terminal"
)

func urlPath(name string) string { return url.PathEscape(name) }

// person reads the argument that names somebody else.
func person(c command, arg string) (id.UserID, error) {
	if _, _, err := id.UserID(arg).Parse(); err != nil {
		return "", usageErrorOf(c, fmt.Sprintf("%q is not a user ID such as @bob:example.org", arg), "")
	}
	return id.UserID(arg), nil
}

// acknowledge accepts the identity of somebody whose identity was reset.
func acknowledge(p *process, c command, args []string) error {
	var flags accountFlags
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	master := fs.String("master-key", "", "the `KEY` that you compared, instead of being asked")
	withdraw := fs.Bool("withdraw", false, "give up that you had verified them before, too")
	a, rest, err := flags.open(p, c, fs, args)
	if a == nil {
		return err
	}
	defer a.close()
	whom, err := person(c, rest[0])
	if err != nil {
		return err
	}
	var known e2ee.UserTrust
	if err := a.Get(a.ctx, "users/"+urlPath(whom.String()), &known); err != nil {
		return a.fail(err)
	}
	switch known.State {
	case "changed":
	case "verification_lost":
		if !*withdraw {
			return &failure{exitRuntime, fmt.Errorf("you had verified %s, so that accepting the new identity is not enough", whom),
				"verify them again; or give the verification up with --withdraw"}
		}
	default:
		return a.print(terminal.Wrap(fmt.Sprintf("There is nothing to accept: the identity of %s is %s.", whom, stateText(known.State)), 0, ""), known)
	}
	key := strings.Join(strings.Fields(*master), "")
	if key == "" {
		if key, err = a.askForKey(whom, &known); err != nil {
			return err
		}
	}
	if known.State == "verification_lost" {
		if key != known.CurrentMasterKey.String() {
			return &failure{exitRuntime, errors.New("that is not the key of their identity now; nothing was changed"), ""}
		}
		err = a.Post(a.ctx, "users/"+urlPath(whom.String())+"/withdraw_verification", struct{}{}, nil)
	} else {
		err = a.Post(a.ctx, "users/"+urlPath(whom.String())+"/acknowledge", map[string]string{"master_key": key}, nil)
	}
	if err != nil {
		return a.fail(err)
	}
	return a.print(fmt.Sprintf("Accepted: messages go to %s again.\n", whom), struct{}{})
}

// askForKey shows the new key, and asks whether it is right.
func (a *account) askForKey(whom id.UserID, known *e2ee.UserTrust) (string, error) {
	if !a.term.Talks() {
		return "", usageErrorOf(a.c, "nobody can be asked here: give the key that you compared with --master-key", "")
	}
	a.term.Tell(terminal.Wrap(fmt.Sprintf("The digital identity of %s was reset. Whoever did that could read what you write from now on. "+
		"Ask them in another way, such as by telephone, whether it was they. The key of their new identity is:", whom), 0, "") +
		"\n  " + fingerprint(known.CurrentMasterKey) + "\n\n")
	said, err := a.term.Ask(a.ctx, "Was it they? Write yes to accept: ")
	if err != nil {
		return "", unanswered(err)
	}
	if strings.TrimSpace(strings.ToLower(said)) != "yes" {
		return "", &failure{exitRuntime, errors.New("not accepted; nothing was changed"), ""}
	}
	return known.CurrentMasterKey.String(), nil
}

// fingerprint is a key in groups of four, as people compare it.
func fingerprint(key id.Ed25519) string {
	var b strings.Builder
	for i, r := range key.String() {
		if i > 0 && i%4 == 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// stateText says how somebody's identity stands.
func stateText(state string) string {
	switch state {
	case "none":
		return "none: they have not set it up"
	case "pinned":
		return "the one that was seen first"
	case "changed":
		return "reset, and not accepted yet"
	case "verified":
		return "verified"
	case "verification_lost":
		return "reset after you had verified it"
	}
	return state
}

// devices lists the devices of the account or of somebody else, and makes exceptions for them.
func devices(p *process, c command, args []string) error {
	var flags accountFlags
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	exceptions := map[string]*string{}
	for name, usage := range map[string]string{
		"trust":        "treat this `DEVICE` as confirmed by its owner, by exception, for testing",
		"distrust":     "treat this `DEVICE` as not confirmed, whatever its owner says",
		"no-exception": "end the exception for this `DEVICE`",
	} {
		exceptions[name] = fs.String(name, "", usage)
	}
	a, rest, err := flags.open(p, c, fs, args)
	if a == nil {
		return err
	}
	defer a.close()
	if len(rest) == 0 && *exceptions["trust"]+*exceptions["distrust"]+*exceptions["no-exception"] == "" {
		return a.ownDevices()
	}
	whom := a.user
	if len(rest) > 0 {
		if whom, err = person(c, rest[0]); err != nil {
			return err
		}
	}
	for name, trusted := range map[string]any{"trust": true, "distrust": false, "no-exception": nil} {
		if device := *exceptions[name]; device != "" {
			call := "users/" + urlPath(whom.String()) + "/devices/" + urlPath(device) + "/override"
			if err := a.Put(a.ctx, call, map[string]any{"trusted": trusted}, nil); err != nil {
				return a.fail(err)
			}
		}
	}
	var known e2ee.UserTrust
	if err := a.Get(a.ctx, "users/"+urlPath(whom.String()), &known); err != nil {
		return a.fail(err)
	}
	return a.print(personText(a.term, &known), known)
}

func personText(t *terminal.Terminal, known *e2ee.UserTrust) string {
	var b strings.Builder
	b.WriteString(t.Paint(terminal.Bold, terminal.Clean(known.UserID.String())) + "\n\n")
	b.WriteString(terminal.Wrap(stateText(known.State), 20, fmt.Sprintf("  %-18s", "Digital identity")))
	if known.CurrentMasterKey != "" {
		b.WriteString(terminal.Wrap(fingerprint(known.CurrentMasterKey), 20, fmt.Sprintf("  %-18s", "Its key")))
	}
	for i, d := range known.Devices {
		first := ""
		if i == 0 {
			first = "Devices"
		}
		b.WriteString(terminal.Wrap(deviceText(d), 20, fmt.Sprintf("  %-18s", first)))
	}
	if len(known.Devices) == 0 {
		b.WriteString("  Devices           none with encryption keys\n")
	}
	return b.String()
}

// ownDevices lists the devices of the account that have used the proxy.
func (a *account) ownDevices() error {
	var said struct {
		Devices []struct {
			DeviceID id.DeviceID `json:"device_id"`
			Mode     string      `json:"mode"`
			SignedIn bool        `json:"signed_in"`
			LastUsed *time.Time  `json:"last_used,omitempty"`
		} `json:"devices"`
	}
	if err := a.Get(a.ctx, "devices", &said); err != nil {
		return a.fail(err)
	}
	if a.json {
		return a.p.printJSON(said)
	}
	if len(said.Devices) == 0 {
		return a.p.print(fmt.Sprintf("No device of %s uses this proxy. Log in through it first.\n", a.user))
	}
	var b strings.Builder
	for _, d := range said.Devices {
		text := keysText(&e2ee.Status{Mode: d.Mode})
		if !d.SignedIn {
			text += "; the proxy has no access token of it: it must log in again"
		}
		if d.LastUsed != nil {
			text += "; last used " + d.LastUsed.Local().Format("2006-01-02 15:04")
		}
		b.WriteString(terminal.Wrap(text, 22, fmt.Sprintf("%-22s", terminal.Clean(d.DeviceID.String())+" ")))
	}
	return a.p.print(b.String())
}
