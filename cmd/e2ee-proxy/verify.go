package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/controlclient"
	"e2ee-proxy/internal/qrcode"
	"e2ee-proxy/internal/terminal"
)

const (
	// maxPicture is the largest picture of a code, in bytes.
	maxPicture = 8 << 20
	// verifyWait is how long one question waits for the other side.
	verifyWait = "30000"
	// cancelWithin is how long it may take to tell the other side that it is over.
	cancelWithin = 5 * time.Second
)

// verifyFlags are how somebody is verified.
type verifyFlags struct {
	accountFlags
	with, fingerprint, scan string
	qr                      bool
}

// verify verifies somebody, or another device of the account, with the person at the terminal.
func verify(p *process, c command, args []string) error {
	var flags verifyFlags
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	fs.StringVar(&flags.with, "with", "", "one `DEVICE` of theirs, instead of all")
	fs.StringVar(&flags.fingerprint, "fingerprint", "", "the `KEY` of their identity that you compared in another way: nothing else is asked")
	fs.StringVar(&flags.scan, "scan", "", "`FILE` with a picture (PNG, JPEG) of the QR code that they show")
	fs.BoolVar(&flags.qr, "qr", false, "show a QR code for them to scan, instead of emoji")
	a, rest, err := flags.open(p, c, fs, args)
	if a == nil {
		return err
	}
	defer a.close()
	whom := a.user
	if len(rest) > 0 {
		if whom, err = person(c, rest[0]); err != nil {
			return err
		}
	}
	if flags.fingerprint != "" {
		if !isFingerprint(flags.fingerprint) {
			return &failure{exitUsage, errors.New("that is not a fingerprint; nothing was changed"),
				"it has 43 letters and digits, in groups or in one; theirs as known here: " + asUser("devices", a.user) + " " + whom.String()}
		}
		err := a.Post(a.ctx, "users/"+urlPath(whom.String())+"/verify", map[string]string{"master_key": flags.fingerprint}, nil)
		if err != nil {
			return a.fail(err)
		}
		return a.print(fmt.Sprintf("Verified: %s.\n", whom), struct{}{})
	}
	f := &flowAtTerminal{account: a, flags: &flags}
	if flags.scan != "" {
		if f.picture, err = readPicture(flags.scan); err != nil {
			return err
		}
	}
	return f.run(whom)
}

// isFingerprint reports whether a text is a public key, with blanks and padding as people write it.
func isFingerprint(text string) bool {
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(strings.Join(strings.Fields(text), ""), "="))
	return err == nil && len(raw) == ed25519.PublicKeySize
}

func readPicture(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("look at the picture: %w", err)
	}
	if info.Size() > maxPicture {
		return nil, &failure{exitRuntime, errors.New("the picture is larger than 8 MB; nothing was changed"), "cut it down to the code"}
	}
	raw, err := os.ReadFile(file) //nolint:gosec // the user names it
	if err != nil {
		return nil, fmt.Errorf("read the picture: %w", err)
	}
	return raw, nil
}

// flowAtTerminal is a verification with a person at the terminal.
type flowAtTerminal struct {
	*account
	flags   *verifyFlags
	picture []byte
	told    e2ee.VerificationState // of which the person was told
	now     e2ee.Verification
}

// run begins a verification, or takes up the one that the other side asked for, and goes on
// until it is over.
func (f *flowAtTerminal) run(whom id.UserID) error {
	if err := f.begin(whom); err != nil {
		said := (*controlclient.RefusedError)(nil)
		if whom == f.user && f.flags.with == "" && errors.As(err, &said) && strings.Contains(said.Text, "no such device") {
			return &failure{exitRuntime, errors.New("no other device of " + whom.String() + " has keys to verify"), "name somebody else to verify, or log in with another client of this account first"}
		}
		return f.fail(err)
	}
	for !f.now.State.Over() {
		if err := f.step(); err != nil {
			return f.giveUp(err)
		}
	}
	if f.now.State == e2ee.VerificationCancelled {
		return &failure{exitRuntime, errors.New(strings.TrimSuffix(terminal.Clean(f.now.Message), ".")), "nothing was verified; try it again with: " + asUser("verify", f.user)}
	}
	return f.print(terminal.Wrap(fmt.Sprintf("Verified: %s.", whom), 0, ""), f.now)
}

func (f *flowAtTerminal) begin(whom id.UserID) error {
	var all struct {
		Verifications []e2ee.Verification `json:"verifications"`
	}
	if err := f.Get(f.ctx, "verifications", &all); err != nil {
		return err
	}
	for i := range all.Verifications {
		v := &all.Verifications[i]
		if v.UserID == whom && v.Incoming && v.State == e2ee.VerificationRequested && (f.flags.with == "" || v.DeviceID.String() == f.flags.with) {
			f.now = *v
			f.term.Tell(terminal.Wrap(fmt.Sprintf("%s asked to verify; accepting.", whom), 0, ""))
			return f.post("accept", struct{}{})
		}
	}
	body := map[string]string{"user_id": whom.String()}
	if f.flags.with != "" {
		body["device_id"] = f.flags.with
	}
	return f.take(func(next *e2ee.Verification) error { return f.Post(f.ctx, "verifications", body, next) })
}

// take has the verification asked for, or changed.
func (f *flowAtTerminal) take(ask func(next *e2ee.Verification) error) error {
	var next e2ee.Verification // what is missing in the answer must not be there from before
	if err := ask(&next); err != nil {
		return err
	}
	f.now = next
	return nil
}

// post makes a step.
func (f *flowAtTerminal) post(step string, body any) error {
	return f.take(func(next *e2ee.Verification) error {
		return f.Post(f.ctx, "verifications/"+urlPath(f.now.ID)+"/"+step, body, next)
	})
}

// step does what is to be done now, or waits for the other side.
func (f *flowAtTerminal) step() error {
	switch f.now.State {
	case e2ee.VerificationReady:
		if done, err := f.choose(); done || err != nil {
			return err
		}
	case e2ee.VerificationCompare:
		return f.compare()
	case e2ee.VerificationScanned:
		yes, err := f.yes("Does the other side say that it has scanned the code? ")
		if err != nil {
			return err
		}
		return f.post("scanned", map[string]bool{"yes": yes})
	case e2ee.VerificationRequested, e2ee.VerificationStarted, e2ee.VerificationConfirmed, e2ee.VerificationDone, e2ee.VerificationCancelled:
	}
	if f.told != f.now.State {
		f.told = f.now.State
		f.term.Tell(terminal.Wrap(terminal.Clean(f.now.Message), 0, ""))
	}
	return f.take(func(next *e2ee.Verification) error {
		return f.Get(f.ctx, "verifications/"+urlPath(f.now.ID)+"?wait="+verifyWait+"&state="+string(f.now.State), next)
	})
}

// choose chooses a way to verify; it reports whether a step was made.
func (f *flowAtTerminal) choose() (done bool, err error) {
	switch {
	case f.picture != nil:
		kind := "image/png"
		if bytes.HasPrefix(f.picture, []byte("\xff\xd8")) {
			kind = "image/jpeg"
		}
		return true, f.take(func(next *e2ee.Verification) error {
			return f.PostFile(f.ctx, "verifications/"+urlPath(f.now.ID)+"/scan", kind, f.picture, next)
		})
	case f.flags.qr && len(f.now.QR) > 0:
		if f.told == f.now.State {
			return false, nil
		}
		f.told = f.now.State
		picture, err := qrcode.Text(f.now.QR)
		f.term.Tell(picture + "\nScan this code with the other client.\n")
		return false, err
	case f.flags.qr:
		return false, &failure{exitRuntime, errors.New("the other client cannot scan a code"), "leave --qr out, and compare emoji"}
	}
	return true, f.post("emoji", struct{}{})
}

// compare shows emoji and numbers, and asks whether they are the same on both sides.
func (f *flowAtTerminal) compare() error {
	var b strings.Builder
	b.WriteString("\n")
	for _, e := range f.now.Emoji {
		fmt.Fprintf(&b, "  %s  %s\n", e.Symbol, e.Name)
	}
	if d := f.now.Decimals; d != nil {
		fmt.Fprintf(&b, "\n  or, as numbers: %d %d %d\n", d[0], d[1], d[2])
	}
	f.term.Tell(b.String() + "\n")
	match, err := f.yes("Does the other side show the same, in the same order? ")
	if err != nil {
		return err
	}
	return f.post("confirm", map[string]bool{"match": match})
}

// yes asks until the answer is yes or no.
func (f *flowAtTerminal) yes(question string) (bool, error) {
	for {
		said, err := f.term.Ask(f.ctx, question+"(yes or no) ")
		if err != nil {
			return false, err
		}
		switch strings.ToLower(strings.TrimSpace(said)) {
		case "yes":
			return true, nil
		case "no":
			return false, nil
		}
		f.term.Tell("Write yes or no.\n")
	}
}

// giveUp tells the other side that it is over.
func (f *flowAtTerminal) giveUp(why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(f.ctx), cancelWithin)
	defer cancel()
	// If it cannot be told, its client ends it after some minutes.
	_ = f.Post(ctx, "verifications/"+urlPath(f.now.ID)+"/cancel", struct{}{}, nil)
	if errors.Is(why, context.Canceled) {
		return &failure{exitRuntime, errors.New("the verification was cancelled; nothing was verified"), ""}
	}
	return f.fail(why)
}
