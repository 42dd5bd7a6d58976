package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/secret"
)

// maxKeyFile is the largest file of keys that the proxy takes, in bytes.
const maxKeyFile = 64 << 20

// exportKeys writes the room keys of a device into a file.
func exportKeys(p *process, c command, args []string) error {
	var flags accountFlags
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	file := passphraseFlag(fs)
	a, rest, err := flags.open(p, c, fs, args)
	if a == nil {
		return err
	}
	defer a.close()
	passphrase, err := a.passphrase(*file, true)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(rest[0], os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return &failure{exitRuntime, fmt.Errorf("%s is there already; nothing was written", rest[0]), "choose another name, or remove it first"}
	}
	if err != nil {
		return fmt.Errorf("make the file: %w", err)
	}
	bar := a.term.Progress("Exporting", -1, true)
	err = a.Download(a.ctx, "keys/export", map[string]string{"passphrase": passphrase.Reveal()}, bar.Writer(out))
	bar.End()
	if err = errors.Join(a.fail(err), out.Close()); err != nil {
		return errors.Join(err, os.Remove(rest[0]))
	}
	return a.print(fmt.Sprintf("The keys are in %s, encrypted with the passphrase.\n", rest[0]), map[string]string{"file": rest[0]})
}

// importKeys takes room keys from a file.
func importKeys(p *process, c command, args []string) error {
	var flags accountFlags
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	file := passphraseFlag(fs)
	a, rest, err := flags.open(p, c, fs, args)
	if a == nil {
		return err
	}
	defer a.close()
	info, err := os.Stat(rest[0])
	if err != nil {
		return fmt.Errorf("look at the file: %w", err)
	}
	if info.Size() > maxKeyFile {
		return &failure{exitRuntime, errors.New("the file is larger than 64 MiB; nothing was imported"), ""}
	}
	keys, err := os.ReadFile(rest[0])
	if err != nil {
		return fmt.Errorf("read the file: %w", err)
	}
	passphrase, err := a.passphrase(*file, false)
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]string{"passphrase": passphrase.Reveal(), "keys": string(keys)})
	if err != nil {
		return err
	}
	bar := a.term.Progress("Importing", int64(len(body)), true)
	var got e2ee.Imported
	err = a.PostStream(a.ctx, "keys/import", bar.Reader(bytes.NewReader(body)), int64(len(body)), &got)
	bar.End()
	if err != nil {
		return a.fail(err)
	}
	return a.print(fmt.Sprintf("Of %d keys in the file %d were news, and %d of no use.\n", got.Total, got.Imported, got.Refused), got)
}

func passphraseFlag(fs *flag.FlagSet) *string {
	return fs.String("passphrase-file", "", "`FILE` with the passphrase of the file of keys (default: asked for, or standard input)")
}

// passphrase reads a passphrase; a new one is asked for twice.
func (a *account) passphrase(file string, isNew bool) (secret.String, error) {
	passphrase, err := a.secretFrom(file, "Passphrase of the file (it is not shown): ")
	if err != nil {
		return passphrase, err
	}
	if passphrase.IsZero() {
		return passphrase, usageErrorOf(a.c, "the passphrase is empty", "")
	}
	if !isNew || file != "" || !a.term.Talks() {
		return passphrase, nil
	}
	again, err := a.secretFrom("", "The same again: ")
	if err == nil && again != passphrase {
		err = &failure{exitRuntime, errors.New("the two passphrases are not the same; nothing was written"), ""}
	}
	return passphrase, err
}
