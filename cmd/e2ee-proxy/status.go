package main

import (
	"flag"
	"fmt"
	"slices"
	"strings"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/terminal"
)

// status says how an account stands, as a person reads it.
func status(p *process, c command, args []string) error {
	var flags accountFlags
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	a, _, err := flags.open(p, c, fs, args)
	if a == nil {
		return err
	}
	defer a.close()
	var s e2ee.Status
	if err := a.Get(a.ctx, "status", &s); err != nil {
		return a.fail(err)
	}
	return a.print(statusText(a.term, &s), s)
}

// statusText returns a status in words.
func statusText(t *terminal.Terminal, s *e2ee.Status) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, device %s\n\n", t.Paint(terminal.Bold, s.UserID.String()), terminal.Clean(s.DeviceID.String()))
	style, sentence := verdict(s)
	b.WriteString(t.Paint(style, strings.TrimSuffix(terminal.Wrap(sentence, 0, ""), "\n")) + "\n\n")
	for _, row := range [][2]string{
		{"Encryption keys", keysText(s)},
		{"Digital identity", identityText(s)},
		{"Key storage", storageText(s)},
		{"Key backup", backupText(s)},
		{"Other devices", othersText(s.OtherDevices)},
		{"Exceptions", exceptionsText(s.Overrides)},
	} {
		if row[1] != "" {
			b.WriteString(terminal.Wrap(row[1], 20, fmt.Sprintf("  %-18s", row[0])))
		}
	}
	for i := range s.Problems {
		problem := &s.Problems[i]
		b.WriteString("\n" + terminal.Wrap(terminal.Clean(problem.Message), 2, "! "))
		b.WriteString(terminal.Wrap(commandsFor(problem.Hint, s.UserID), 4, "  > "))
	}
	if n := len(s.Warnings); n > 0 {
		b.WriteString("\n" + terminal.Wrap(fmt.Sprintf("There are %d things that you should know: %s", n, asUser("warnings", s.UserID)), 0, ""))
	}
	return b.String()
}

// verdict is one sentence about everything.
func verdict(s *e2ee.Status) (terminal.Style, string) {
	switch {
	case s.Mode == "foreign":
		return terminal.Careful, "This device does its own encryption; the proxy does none for it."
	case s.Mode != "proxied":
		return terminal.Bad, "The proxy does no encryption for this device."
	case slices.ContainsFunc(s.Problems, func(p e2ee.Problem) bool { return p.Code == "setting_up" }):
		return terminal.Careful, "The proxy has not set this device up yet."
	case !s.Identity.DeviceSigned:
		return terminal.Bad, "This device is not confirmed as yours: it can send nothing to encrypted rooms."
	case len(s.Problems) > 0:
		return terminal.Careful, "This device sends and reads encrypted messages, and something is to be done."
	}
	return terminal.Good, "All is well: this device sends and reads encrypted messages, and others see that it is yours."
}

func keysText(s *e2ee.Status) string {
	switch s.Mode {
	case "proxied":
		return "the proxy has them"
	case "foreign":
		return "the client has its own"
	case "lost":
		return "destroyed with the session that had them"
	}
	return "none yet"
}

func identityText(s *e2ee.Status) string {
	switch i := s.Identity; {
	case s.Mode != "proxied":
		return ""
	case i.MasterKey == "":
		return "none yet"
	case i.DeviceSigned && i.Ours:
		return "has confirmed this device"
	case i.DeviceSigned:
		return "has confirmed this device; its private keys are not here"
	}
	return "has not confirmed this device"
}

func storageText(s *e2ee.Status) string {
	switch st := s.SecretStorage; {
	case s.Mode != "proxied":
		return ""
	case st.Complete:
		return "complete: your recovery key brings everything back"
	case st.DefaultKey != "":
		return "not complete"
	}
	return "none"
}

func backupText(s *e2ee.Status) string {
	b := s.Backup
	switch {
	case s.Mode != "proxied":
		return ""
	case !b.Enabled:
		return "switched off"
	case b.Version == "":
		return "none"
	case !b.Trusted:
		return "one that is not known to be yours"
	}
	text := fmt.Sprintf("on, %d keys", b.Count)
	if b.Count == 1 {
		text = "on, one key"
	}
	if b.Pending > 0 {
		text += fmt.Sprintf(", %d waiting to be saved", b.Pending)
	}
	if !b.Readable {
		text += "; what is in it cannot be read"
	}
	if r := b.Restore; r != nil && r.State == "running" {
		text += fmt.Sprintf("; restoring the history: %d of %d", r.Done, r.Total)
	}
	return text
}

func othersText(devices []e2ee.DeviceTrust) string {
	all := make([]string, len(devices))
	for i, d := range devices {
		all[i] = deviceText(d)
	}
	return strings.Join(all, ", ")
}

// deviceText names a device with how far it is trusted.
func deviceText(d e2ee.DeviceTrust) string {
	said := "not confirmed by its owner"
	if d.Signed {
		said = "confirmed"
	}
	if d.Override != nil && *d.Override {
		said += ", trusted by exception"
	} else if d.Override != nil {
		said += ", not trusted by exception"
	}
	return terminal.Clean(d.DeviceID.String()) + " (" + said + ")"
}

func exceptionsText(all []e2ee.UserDevice) string {
	out := make([]string, len(all))
	for i, o := range all {
		said := "not trusted"
		if o.Trusted {
			said = "trusted"
		}
		if o.Gone {
			said += " (the homeserver does not show it)"
		}
		out[i] = fmt.Sprintf("%s of %s %s", terminal.Clean(o.DeviceID.String()), terminal.Clean(o.UserID.String()), said)
	}
	return strings.Join(out, ", ")
}

// warnings tells what the user should know, or drops one of it.
func warnings(p *process, c command, args []string) error {
	var flags accountFlags
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	dismiss := fs.String("dismiss", "", "drop the warning with this `ID`; what it was about stays")
	a, _, err := flags.open(p, c, fs, args)
	if a == nil {
		return err
	}
	defer a.close()
	if *dismiss != "" {
		if err := a.Post(a.ctx, "warnings/"+urlPath(*dismiss)+"/dismiss", struct{}{}, nil); err != nil {
			return a.fail(err)
		}
		return a.print("The warning is dropped.\n", struct{}{})
	}
	var said struct {
		Warnings []e2ee.Warning `json:"warnings"`
	}
	if err := a.Get(a.ctx, "warnings", &said); err != nil {
		return a.fail(err)
	}
	return a.print(warningsText(a.term, said.Warnings, a.user), said)
}

func warningsText(t *terminal.Terminal, all []e2ee.Warning, user id.UserID) string {
	if len(all) == 0 {
		return "There is nothing that you should know.\n"
	}
	var b strings.Builder
	for i := range all {
		w := &all[i]
		head := w.Since.Local().Format("2006-01-02 15:04")
		if w.UserID != "" {
			head += "  " + terminal.Clean(w.UserID.String())
		}
		b.WriteString(t.Paint(terminal.Bold, head) + "\n")
		b.WriteString(terminal.Wrap(commandsFor(w.Message, user), 2, ""))
		b.WriteString(terminal.Wrap(asUser("warnings", user)+" --dismiss "+w.ID, 4, "  > ") + "\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}
