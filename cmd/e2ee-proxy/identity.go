package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/controlclient"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/terminal"
)

// maxSecretFile is how large a file with a secret may be, in bytes.
const maxSecretFile = 64 << 10

// secretFrom reads a secret: from a file, or else from a person or standard input.
func (a *account) secretFrom(file, question string) (secret.String, error) {
	if file == "" {
		typed, err := a.term.Secret(a.ctx, question)
		return typed, unanswered(err)
	}
	info, err := os.Stat(file)
	if err != nil {
		return secret.String{}, fmt.Errorf("look at the file: %w", err)
	}
	if info.Size() > maxSecretFile {
		return secret.String{}, errors.New("the file is too large to be a secret")
	}
	raw, err := os.ReadFile(file) //nolint:gosec // the user names it
	if err != nil {
		return secret.String{}, fmt.Errorf("read the file: %w", err)
	}
	defer clear(raw)
	return secret.NewString(strings.TrimRight(string(raw), "\r\n")), nil
}

// unanswered says how it ended when a person left instead of answering.
func unanswered(err error) error {
	if errors.Is(err, context.Canceled) {
		return &failure{exitRuntime, errors.New("ended by a signal before there was an answer; nothing was done"), ""}
	}
	return err
}

// recoverAccount takes the identity from secret storage.
func recoverAccount(p *process, c command, args []string) error {
	var flags accountFlags
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	file := fs.String("key-file", "", "`FILE` with the recovery key, or with the passphrase (default: asked for, or standard input)")
	passphrase := fs.Bool("passphrase", false, "it is the passphrase, and not the recovery key")
	restore := fs.Bool("restore", false, "fetch the keys of the whole history too, and wait for that")
	a, _, err := flags.open(p, c, fs, args)
	if a == nil {
		return err
	}
	defer a.close()
	member, question := "recovery_key", "Recovery key (it is not shown): "
	if *passphrase {
		member, question = "passphrase", "Passphrase (it is not shown): "
	}
	key, err := a.secretFrom(*file, question)
	if err != nil {
		return err
	}
	if key.IsZero() {
		return usageErrorOf(c, "there is no recovery key", "")
	}
	if !*passphrase && !e2ee.WellFormedRecoveryKey(key) {
		return &failure{exitRuntime, errors.New("that is not a recovery key: a character is wrong or missing; nothing was changed"),
			"a recovery key has 12 groups of 4 characters, such as EsTc …; a passphrase needs --passphrase"}
	}
	if err := a.Post(a.ctx, "recover", map[string]any{member: key.Reveal(), "restore": *restore}, nil); err != nil {
		return a.fail(err)
	}
	if *restore {
		if err := a.awaitRestore(); err != nil {
			return err
		}
	}
	return a.print("Recovered: this device is confirmed as yours.\n", struct{}{})
}

// restore fetches the keys of the whole history from the backup.
func restore(p *process, c command, args []string) error {
	var flags accountFlags
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	a, _, err := flags.open(p, c, fs, args)
	if a == nil {
		return err
	}
	defer a.close()
	if err := a.Post(a.ctx, "keys/restore", struct{}{}, nil); err != nil {
		return a.fail(err)
	}
	return a.awaitRestore()
}

// lookAgain is how often it is asked how far something is.
const lookAgain = 500 * time.Millisecond

// awaitRestore shows how far a restore is until it has ended. A failed one is tried again by
// the proxy itself.
func (a *account) awaitRestore() error {
	bar := a.term.Progress("Restoring", -1, false)
	defer bar.End()
	for {
		var s e2ee.Status
		if err := a.Get(a.ctx, "status", &s); err != nil {
			return a.fail(err)
		}
		r := s.Backup.Restore
		switch {
		case r == nil || r.State == "done":
			bar.End()
			if r == nil {
				r = &e2ee.RestoreStatus{State: "done"}
			}
			return a.print(fmt.Sprintf("The history is restored: %d keys in the backup, %d of them were news, %d of no use.\n", r.Total, r.Restored, r.Refused), r)
		case r.State == "failed":
			return &failure{exitRuntime, errors.New("the history could not be restored; the proxy tries it again by itself"), "look with: " + asUser("status", a.user)}
		}
		bar.Set(int64(r.Done), int64(r.Total))
		select {
		case <-a.ctx.Done():
			return a.fail(a.ctx.Err())
		case <-time.After(lookAgain):
		}
	}
}

// identityFlags are those of commands for which the homeserver may want to know who asks.
type identityFlags struct {
	accountFlags
	passwordFile string
}

func (i *identityFlags) open(p *process, c command, fs *flag.FlagSet, args []string) (*account, []string, error) {
	fs.StringVar(&i.passwordFile, "password-file", "", "`FILE` with the account's password (default: asked for if the homeserver wants it, or standard input)")
	return i.accountFlags.open(p, c, fs, args)
}

// bootstrap creates what the account lacks.
func bootstrap(p *process, c command, args []string) error {
	var flags identityFlags
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	a, _, err := flags.open(p, c, fs, args)
	if a == nil {
		return err
	}
	defer a.close()
	return a.withKey("bootstrap", map[string]any{}, flags.passwordFile)
}

// reset makes a new identity.
func reset(p *process, c command, args []string) error {
	var flags identityFlags
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	yes := fs.Bool("yes", false, "do it without asking")
	a, _, err := flags.open(p, c, fs, args)
	if a == nil {
		return err
	}
	defer a.close()
	if !*yes {
		if err := a.askForReset(); err != nil {
			return err
		}
	}
	return a.withKey("reset", map[string]any{"confirm": true}, flags.passwordFile)
}

func (a *account) askForReset() error {
	if !a.term.Talks() {
		return usageErrorOf(a.c, "a reset cannot be undone, and nobody can be asked here: say --yes", "")
	}
	a.term.Tell(terminal.Wrap("A reset makes a new digital identity. Everybody you talk to is told, and must accept or verify you again; "+
		"your other devices must be confirmed again; messages that only the old recovery key opens are lost. "+
		"With the recovery key you do not need it: "+asUser("recover", a.user), 0, "") + "\n")
	said, err := a.term.Ask(a.ctx, "To go on write "+a.user.String()+": ")
	if err != nil {
		return unanswered(err)
	}
	if strings.TrimSpace(said) != a.user.String() {
		return &failure{exitRuntime, errors.New("not reset; nothing was changed"), ""}
	}
	return nil
}

// withKey has something done for which the homeserver may want to know who asks, and shows the
// recovery key that came of it.
func (a *account) withKey(call string, body map[string]any, passwordFile string) error {
	var answer struct {
		RecoveryKey string `json:"recovery_key,omitempty"`
	}
	err := a.Post(a.ctx, call, body, &answer)
	for tries := 0; tries < 2 && err != nil; tries++ {
		asked, ok := wantsAuthentication(err)
		if !ok {
			break
		}
		if err = a.authenticate(asked, body, passwordFile); err != nil {
			return err
		}
		err = a.Post(a.ctx, call, body, &answer)
	}
	if err != nil {
		return a.fail(err)
	}
	if answer.RecoveryKey == "" {
		return a.print("All is there.\n", answer)
	}
	return a.print("Your recovery key:\n\n  "+answer.RecoveryKey+"\n\n"+
		terminal.Wrap("Keep it, not on this machine: with it your identity and your messages come back, and nobody can make another one for you.", 0, ""), answer)
}

// authentication is what the homeserver wants to know who asks.
type authentication struct {
	Session string `json:"session"`
	Flows   []struct {
		Stages []string `json:"stages"`
	} `json:"flows"`
	Params map[string]struct {
		URL string `json:"url"`
	} `json:"params"`
}

func wantsAuthentication(err error) (*authentication, bool) {
	said := (*controlclient.RefusedError)(nil)
	if !errors.As(err, &said) || said.Status != http.StatusUnauthorized {
		return nil, false
	}
	var asked authentication
	if json.Unmarshal(said.Body, &asked) != nil || len(asked.Flows) == 0 {
		return nil, false
	}
	return &asked, true
}

// authenticate adds to the body what the homeserver asks for.
func (a *account) authenticate(asked *authentication, body map[string]any, passwordFile string) error {
	for _, flow := range asked.Flows {
		if slices.Equal(flow.Stages, []string{"m.login.password"}) {
			password, err := a.secretFrom(passwordFile, "Password of "+a.user.String()+" (it is not shown): ")
			if errors.Is(err, terminal.ErrNothing) {
				return usageErrorOf(a.c, "the homeserver wants the password: give it on standard input or with --password-file", "")
			}
			body["password"] = password.Reveal()
			return err
		}
	}
	for _, flow := range asked.Flows {
		for _, stage := range flow.Stages {
			if page := asked.Params[stage].URL; page != "" {
				if !a.term.Talks() {
					return &failure{exitRuntime, errors.New("the homeserver wants this allowed in a browser"), "run this in a terminal"}
				}
				a.term.Tell(terminal.Wrap("The homeserver wants this allowed in a browser. Open this page, allow it there, and come back:", 0, "") + "\n  " + terminal.Clean(page) + "\n\n")
				_, err := a.term.Ask(a.ctx, "Then press Enter: ")
				body["auth"] = map[string]string{"session": asked.Session}
				return unanswered(err)
			}
		}
	}
	return &failure{exitRuntime, errors.New("the homeserver wants to know who asks in a way that only a client can show"), "do this in a client, such as Element"}
}
