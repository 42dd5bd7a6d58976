package pantalaimon

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Server is a section of the configuration: a homeserver, and where pantalaimon listened
// for its clients.
type Server struct {
	// Name is the section's.
	Name       string
	Homeserver *url.URL
	// Listen is an address and port.
	Listen string
	// NoTLSCheck is SSL = False: the homeserver's certificate was not checked.
	NoTLSCheck bool
	// IgnoreVerification reports whether messages went to devices that nobody had verified.
	IgnoreVerification bool
	// Keyring reports whether access tokens are in the system's keyring, and not in pan.db.
	Keyring bool
	// Proxy is the proxy on the way to the homeserver; empty is none.
	Proxy string
}

// Places of a configuration whose values are as if they stood in every section.
const defaultSection = "Default"

var (
	errNoSection = errors.New("a setting stands before the first section")
	errNoSetting = errors.New("a line is neither a section, a setting nor a comment")
)

// ReadConfig reads a configuration with the rules of Python's configparser, as far as
// pantalaimon's files use them: names without regard to case, "=" or ":", comments on lines
// of their own, and values that go on in lines that are indented.
func ReadConfig(r io.Reader) ([]Server, error) {
	sections, order, err := readINI(r)
	if err != nil {
		return nil, err
	}
	var all []Server
	for _, name := range order {
		if name == defaultSection {
			continue
		}
		s, err := readServer(name, func(key string) (string, bool) {
			if v, ok := sections[name][key]; ok {
				return v, true
			}
			v, ok := sections[defaultSection][key]
			return v, ok
		})
		if err != nil {
			return nil, fmt.Errorf("section %s: %w", name, err)
		}
		all = append(all, s)
	}
	return all, nil
}

// readINI reads sections with their settings, names in lower case, and the order in which
// the sections stand.
func readINI(r io.Reader) (sections map[string]map[string]string, order []string, err error) {
	const maxLine = 1 << 20
	sections = map[string]map[string]string{}
	section, key := "", ""
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimPrefix(lines.Text(), "\ufeff")
		text := strings.TrimSpace(line)
		switch {
		case text == "", text[0] == '#', text[0] == ';':
		case key != "" && (line[0] == ' ' || line[0] == '\t'):
			sections[section][key] += "\n" + text
		case text[0] == '[':
			end := strings.IndexByte(text, ']')
			if end < 2 {
				return nil, nil, fmt.Errorf("line %d: %w", n, errNoSetting)
			}
			section, key = text[1:end], ""
			if sections[section] == nil {
				sections[section] = map[string]string{}
				order = append(order, section)
			}
		case section == "":
			return nil, nil, fmt.Errorf("line %d: %w", n, errNoSection)
		default:
			at := strings.IndexAny(text, "=:")
			if at < 1 {
				return nil, nil, fmt.Errorf("line %d: %w", n, errNoSetting)
			}
			key = strings.ToLower(strings.TrimSpace(text[:at]))
			// "%" is a mark of configparser, which is written twice to mean itself.
			sections[section][key] = strings.ReplaceAll(strings.TrimSpace(text[at+1:]), "%%", "%")
		}
	}
	if err := lines.Err(); err != nil {
		return nil, nil, fmt.Errorf("read the configuration: %w", err)
	}
	return sections, order, nil
}

// readServer reads one section. Pantalaimon's own defaults hold for what is not there.
func readServer(name string, get func(key string) (string, bool)) (Server, error) {
	s := Server{Name: name}
	home, ok := get("homeserver")
	if !ok {
		return s, errors.New("Homeserver is missing")
	}
	var err error
	if s.Homeserver, err = url.Parse(home); err != nil || s.Homeserver.Host == "" || !slices.Contains([]string{"http", "https"}, s.Homeserver.Scheme) {
		return s, errors.New("Homeserver is no URL of http or https")
	}
	address, port := "localhost", "8009"
	if v, ok := get("listenaddress"); ok {
		address = v
	}
	if v, ok := get("listenport"); ok {
		port = v
	}
	if address == "localhost" {
		address = "127.0.0.1"
	}
	if _, err := netip.ParseAddr(address); err != nil {
		return s, errors.New("ListenAddress is no address")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return s, errors.New("ListenPort is no port")
	}
	s.Listen = net.JoinHostPort(address, port)
	tls := false
	for _, b := range []struct {
		key      string
		standard bool
		to       *bool
	}{{"ssl", true, &tls}, {"ignoreverification", false, &s.IgnoreVerification}, {"usekeyring", true, &s.Keyring}} {
		*b.to = b.standard
		if v, ok := get(b.key); ok {
			if *b.to, err = readBool(v); err != nil {
				return s, fmt.Errorf("%s: %w", b.key, err)
			}
		}
	}
	s.NoTLSCheck = !tls
	s.Proxy, _ = get("proxy")
	return s, nil
}

// readBool reads what configparser takes for a truth value.
func readBool(v string) (bool, error) {
	switch strings.ToLower(v) {
	case "1", "yes", "true", "on":
		return true, nil
	case "0", "no", "false", "off":
		return false, nil
	}
	return false, errors.New("is neither True nor False")
}
