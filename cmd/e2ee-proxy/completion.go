package main

import (
	"flag"
	"fmt"
	"slices"
	"strings"
)

// Rules of this file: the shells ask this program what can stand where the cursor is, by the
// hidden command "complete"; so what they offer is what there is. Nothing is read but the
// command line, and nobody is asked.

// completion prints the script by which a shell completes commands.
func completion(p *process, c command, args []string) error {
	rest, done, err := p.parseArgs(c, flag.NewFlagSet(c.name, flag.ContinueOnError), args)
	if done || err != nil {
		return err
	}
	script, ok := map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}[rest[0]]
	if !ok {
		return usageErrorOf(c, fmt.Sprintf("%q is not one of bash, zsh and fish", rest[0]), "")
	}
	return p.print(script)
}

const (
	bashCompletion = `# bash completion for e2ee-proxy: source it, or put it into
# /usr/share/bash-completion/completions/e2ee-proxy
_e2ee_proxy() {
	local word=${COMP_WORDS[COMP_CWORD]} IFS=$'\n'
	local -a found
	found=($("${COMP_WORDS[0]}" complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | cut -f1))
	if [[ ${found[0]} == ":files" ]]; then
		compopt -o filenames 2>/dev/null
		COMPREPLY=($(compgen -f -- "$word"))
	else
		COMPREPLY=($(compgen -W "${found[*]}" -- "$word"))
	fi
}
complete -F _e2ee_proxy e2ee-proxy
`
	zshCompletion = `#compdef e2ee-proxy
# zsh completion for e2ee-proxy: put it as _e2ee-proxy into a folder of $fpath
_e2ee_proxy() {
	local line
	local -a found
	for line in "${(@f)$("${words[1]}" complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
		if [[ $line == ":files" ]]; then
			_files
			return
		fi
		found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
	done
	_describe 'e2ee-proxy' found
}
if [[ ${funcstack[1]} == _e2ee-proxy ]]; then # from a folder of $fpath
	_e2ee_proxy
else
	compdef _e2ee_proxy e2ee-proxy
fi
`
	fishCompletion = `# fish completion for e2ee-proxy: put it into ~/.config/fish/completions/e2ee-proxy.fish
function __e2ee_proxy
	set -l words (commandline -opc) (commandline -ct)
	set -l found ($words[1] complete -- $words[2..-1] 2>/dev/null)
	if test "$found[1]" = ":files"
		__fish_complete_path (commandline -ct)
	else
		printf '%s\n' $found
	end
end
complete -c e2ee-proxy -f -a '(__e2ee_proxy)'
`
)

// completeFiles is what is said where a file can stand.
const completeFiles = ":files"

// complete prints what can stand in place of the last word of a command line, one a line, with
// what it is after a tab.
func complete(p *process, _ command, args []string) error {
	if p.describe != nil {
		return nil // it has no flags
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		args = []string{""}
	}
	return p.print(strings.Join(candidates(args), ""))
}

func candidates(words []string) []string {
	before, last := words[:len(words)-1], words[len(words)-1]
	if len(before) == 1 && before[0] == "completion" {
		return offered(last, "bash\t", "zsh\t", "fish\t")
	}
	c, rest, found := commandOf(before)
	if !found {
		return commandWords(before, last)
	}
	flags := flagsOf(c)
	if n := len(rest); n > 0 {
		if d, ok := wantsValue(flags, rest[n-1]); ok {
			return valuesOf(d, last)
		}
	}
	if strings.HasPrefix(last, "-") {
		var out []string
		for _, d := range flags {
			out = append(out, "--"+d.name+"\t"+firstWords(d.usage))
		}
		return offered(last, out...)
	}
	if strings.Contains(c.args, "FILE") {
		return []string{completeFiles + "\n"}
	}
	return nil
}

// commandOf finds the command that words begin with.
func commandOf(words []string) (c command, rest []string, found bool) {
	for _, c := range commands() {
		name := strings.Fields(c.name)
		if len(words) >= len(name) && slices.Equal(words[:len(name)], name) {
			return c, words[len(name):], true
		}
	}
	return command{}, nil, false
}

// commandWords returns the words of commands that can stand after others.
func commandWords(before []string, last string) []string {
	var out []string
	for _, c := range commands() {
		name := strings.Fields(c.name)
		if c.hidden() || len(name) <= len(before) || !slices.Equal(name[:len(before)], before) {
			continue
		}
		word := name[len(before)]
		if len(name) > len(before)+1 {
			out = append(out, word+"\tcommands about "+word)
			continue
		}
		out = append(out, word+"\t"+c.summary)
	}
	return offered(last, slices.Compact(out)...)
}

// flagsOf returns the flags of a command, as it registers them.
func flagsOf(c command) (all []describedFlag) {
	asked := &process{describe: func(_ command, fs *flag.FlagSet) {
		all = describeFlags(fs)
	}}
	// It says its flags, and does nothing.
	_ = c.run(asked, c, nil)
	return all
}

// wantsValue returns the flag of a word after which its value stands.
func wantsValue(flags []describedFlag, word string) (describedFlag, bool) {
	name := strings.TrimLeft(word, "-")
	if name == word {
		return describedFlag{}, false
	}
	at := slices.IndexFunc(flags, func(d describedFlag) bool { return d.name == name && !d.alone })
	if at < 0 {
		return describedFlag{}, false
	}
	return flags[at], true
}

// valuesOf returns the values that a flag can have.
func valuesOf(d describedFlag, last string) []string {
	switch {
	case d.kind == "FILE" || d.kind == "FOLDER":
		return []string{completeFiles + "\n"}
	case strings.Contains(d.kind, "|"):
		return offered(last, strings.Split(d.kind, "|")...)
	}
	return nil
}

// offered returns those that begin with a word, as lines.
func offered(word string, all ...string) []string {
	var out []string
	for _, one := range all {
		if strings.HasPrefix(one, word) {
			out = append(out, one+"\n")
		}
	}
	return out
}

// firstWords shortens what a flag does for a line of a shell.
func firstWords(text string) string {
	text, _, _ = strings.Cut(text, " (")
	const most = 60
	if r := []rune(text); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return text
}
