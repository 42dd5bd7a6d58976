package main

import "strings"

// command is one row of the command line.
type command struct {
	name string
	// args are the arguments that are no flags, as help writes them; [ARG] need not be there.
	args    string
	summary string
	run     func(p *process, c command, args []string) error
	// examples are what may follow the name, for the pages of the manual.
	examples []string
}

// hidden reports whether a command is for programs, and not listed.
func (c command) hidden() bool { return c.summary == "" }

// about is what a command does, as a sentence.
func (c command) about() string { return strings.ToUpper(c.summary[:1]) + c.summary[1:] + "." }

// call is a call of the command, with what follows its name.
func (c command) call(rest string) string { return "e2ee-proxy " + c.name + " " + rest }

// synopsis is how a command is called.
func (c command) synopsis() string {
	text := "e2ee-proxy " + c.name
	if c.args != "" {
		text += " " + c.args
	}
	return text + " [flags]"
}

func commands() []command {
	return []command{
		{"serve", "", "run the proxy", serve, []string{"--homeserver https://matrix.example.org", "--config /etc/e2ee-proxy.yaml"}},
		{"version", "", "print the version", version, nil},
		{"healthcheck", "", "ask a running proxy whether it can serve", healthcheck, []string{"--config /etc/e2ee-proxy.yaml"}},
		{"config check", "", "check the configuration and report every problem", configCheck, []string{"--config /etc/e2ee-proxy.yaml"}},
		{"config example", "", "print a commented configuration with every setting", configExample, nil},
		{"policy test", "FILE", "ask the organisation's rules the examples of a FILE", policyTest, []string{"--config /etc/e2ee-proxy.yaml examples.yaml"}},
		{"status", "", "say how an account stands, and what is to be done", status, []string{"--user @bot:example.org", "--user @bot:example.org --json"}},
		{"doctor", "", "find what keeps an account's messages from passing, and what mends it", doctor, []string{"--user @bot:example.org", "--user @bot:example.org --talk"}},
		{"warnings", "", "say what the owner of an account should know", warnings, []string{"--user @bot:example.org"}},
		{"devices", "[USER]", "list the devices of an account that use the proxy, or somebody's", devices, []string{"--user @bot:example.org", "--user @bot:example.org @alice:example.org"}},
		{"verify", "[USER]", "verify somebody, or another device of the account, by emoji or QR code", verify, []string{"--user @bot:example.org @alice:example.org", "--user @bot:example.org --with ELEMENT"}},
		{"acknowledge", "USER", "accept the digital identity of somebody who has reset it", acknowledge, []string{"--user @bot:example.org @alice:example.org"}},
		{"recover", "", "confirm a device with the recovery key, and get the identity here", recoverAccount, []string{"--user @bot:example.org", "--user @bot:example.org --key-file key.txt --restore"}},
		{"bootstrap", "", "create what an account lacks of identity, key storage and backup", bootstrap, []string{"--user @bot:example.org"}},
		{"reset", "", "make a new digital identity, for who lost the recovery key", reset, []string{"--user @bot:example.org"}},
		{"restore", "", "fetch the keys of the whole history from the key backup", restore, []string{"--user @bot:example.org"}},
		{"export", "FILE", "write the room keys of a device into a file", exportKeys, []string{"--user @bot:example.org keys.txt"}},
		{"import", "FILE", "take room keys from a file", importKeys, []string{"--user @bot:example.org keys.txt"}},
		{"recovery-key", "", "print the recovery key that the proxy made for an account", recoveryKey, []string{"--user @bot:example.org"}},
		{"audit verify", "", "check that nobody changed the audit log", auditVerify, []string{"--config /etc/e2ee-proxy.yaml --checkpoint kept.txt"}},
		{"audit checkpoint", "", "print a signed checkpoint of the audit log, to be kept elsewhere", auditCheckpoint, []string{"--config /etc/e2ee-proxy.yaml"}},
		{"audit export", "", "print who was given keys and secrets, and who was not", auditExport, []string{"--from 2026-11-01 --user @alice:example.org"}},
		{"audit who-has", "", "print which devices could read a room, and since when", auditWhoHas, []string{"--room '!room:example.org'"}},
		{"discard-sessions", "", "discard sending keys, after a machine was set back to a snapshot", discardSessions, []string{"--config /etc/e2ee-proxy.yaml"}},
		{"completion", "SHELL", "print the script by which bash, zsh or fish completes commands", completion, []string{"bash"}},
		{"man", "FOLDER", "write the pages of the manual into a folder", manPages, []string{"/usr/local/share/man/man1"}},
		{"complete", "", "", complete, nil},
		{"import-pantalaimon", "", "take over the devices and room keys of pantalaimon", importPantalaimon, []string{"--config pantalaimon.conf"}},
	}
}
