package main

import (
	"flag"

	"e2ee-proxy/config"
	"e2ee-proxy/e2ee"
)

// settings are the flags that set the configuration.
type settings struct {
	file  string
	flags config.Flags
	// inspect is set by config check, which also checks what the settings name.
	inspect *config.Inspection
	// offline is for commands that do not talk to the homeserver.
	offline bool
}

func (s *settings) register(fs *flag.FlagSet) {
	s.registerFile(fs)
	s.flags.Register(fs)
}

func (s *settings) registerFile(fs *flag.FlagSet) {
	fs.StringVar(&s.file, "config", "", "YAML `FILE` with settings (default: what E2EE_PROXY_CONFIG names)")
}

func (s *settings) load(p *process) (*config.Config, error) {
	return config.Load(config.Sources{File: s.file, Environ: p.environ, Flags: &s.flags, Offline: s.offline, Inspect: s.inspect})
}

// configCheck reads the configuration as serve would, and checks the files and folders that
// it names. It changes nothing and talks to nobody.
func configCheck(p *process, c command, args []string) error {
	s := settings{inspect: &config.Inspection{RecoveryKey: e2ee.WellFormedRecoveryKey}}
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	s.register(fs)
	if done, err := p.parse(c, fs, args); done || err != nil {
		return err
	}
	if _, err := s.load(p); err != nil {
		return err
	}
	return p.print("the configuration is fine\n")
}

func configExample(p *process, c command, args []string) error {
	if done, err := p.parse(c, flag.NewFlagSet(c.name, flag.ContinueOnError), args); done || err != nil {
		return err
	}
	return p.print(string(config.Example()))
}
