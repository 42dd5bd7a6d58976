package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/config"
	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/audit"
	"e2ee-proxy/internal/pantalaimon"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

// importPantalaimon takes over what pantalaimon has for one homeserver, and prints settings
// with which the proxy takes its place: YAML, in which the report is comments. It never
// writes to pantalaimon's files, and talks to no homeserver.
func importPantalaimon(p *process, c command, args []string) (err error) {
	var flags config.Flags
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	file := fs.String("config", "", "`FILE` with pantalaimon's configuration, pantalaimon.conf (required)")
	section := fs.String("section", "", "`NAME` of the section to take, if there are several")
	from := fs.String("pantalaimon-data", "", "`FOLDER` with pantalaimon's pan.db (default: where pantalaimon has it)")
	flags.Register(fs)
	if done, err := p.parse(c, fs, args); done || err != nil {
		return err
	}
	if *file == "" {
		return usageErrorOf(c, "--config needs pantalaimon's configuration, such as ~/.config/pantalaimon/pantalaimon.conf", "")
	}
	server, err := chooseServer(*file, *section)
	if err != nil {
		return err
	}
	cfg, err := config.Load(config.Sources{Environ: p.environ, Flags: &flags, Offline: true})
	if err != nil {
		return err
	}
	ctx := context.Background()
	if pantalaimonRuns(ctx, server.Listen) {
		return &failure{exitRuntime, fmt.Errorf("something listens on %s: is pantalaimon still running", server.Listen),
			"stop pantalaimon, and never start it again: two programs with the same keys destroy them"}
	}
	source, err := pantalaimon.Open(ctx, pantalaimonData(*from, p.environ))
	if err != nil {
		return &failure{exitRuntime, fmt.Errorf("pantalaimon's database: %w", err), "name its folder with --pantalaimon-data: the one that pantalaimon was given with --data-path"}
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	db, err := openStore(ctx, cfg, newLogger(p.stderr, cfg.Log, new(logLevel)), nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.AppendAudit(ctx, &audit.Record{Kind: audit.KindImport, Note: "devices and room keys of pantalaimon"}); err != nil {
		return storeFailure(err)
	}
	report, err := takeAll(ctx, db, source, server)
	if err != nil {
		return err
	}
	return p.print(report + settingsFor(server, cfg))
}

// chooseServer returns the section of a configuration that is meant.
func chooseServer(file, section string) (pantalaimon.Server, error) {
	none := pantalaimon.Server{}
	f, err := os.Open(file) //nolint:gosec // the operator names the file
	if err != nil {
		return none, &failure{exitUsage, fmt.Errorf("pantalaimon's configuration: %w", err), ""}
	}
	defer f.Close() //nolint:errcheck // it was only read
	all, err := pantalaimon.ReadConfig(f)
	if err != nil {
		return none, &failure{exitConfig, fmt.Errorf("pantalaimon's configuration: %w", err), ""}
	}
	var names []string
	for _, s := range all {
		names = append(names, s.Name)
	}
	i := slices.Index(names, section)
	if section == "" && len(all) == 1 {
		i = 0
	}
	switch {
	case i >= 0:
		return all[i], nil
	case len(all) == 0:
		return none, &failure{exitConfig, errors.New("pantalaimon's configuration names no homeserver"), ""}
	case section != "":
		return none, &failure{exitUsage, fmt.Errorf("pantalaimon's configuration has no section %q", section), "there are: " + strings.Join(names, ", ")}
	}
	return none, &failure{exitUsage, errors.New("pantalaimon's configuration has several sections, and the proxy serves one homeserver"),
		"name one with --section: " + strings.Join(names, ", ") + "; for the others run further proxies, each with a --data of its own"}
}

// pantalaimonRuns reports whether something answers where pantalaimon listened.
func pantalaimonRuns(ctx context.Context, address string) bool {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		address = net.JoinHostPort("localhost", port)
	}
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// pantalaimonData returns pantalaimon's data directory.
func pantalaimonData(given string, environ []string) string {
	if given != "" {
		return given
	}
	env := func(name string) string {
		for _, e := range environ {
			if value, ok := strings.CutPrefix(e, name+"="); ok {
				return value
			}
		}
		return ""
	}
	if data := env("XDG_DATA_HOME"); data != "" {
		return filepath.Join(data, "pantalaimon")
	}
	return filepath.Join(env("HOME"), ".local", "share", "pantalaimon")
}

// takeAll takes one device of each user over, the newest of those that have an access token,
// with the room keys of all of them, and reports what became of each.
func takeAll(ctx context.Context, db *store.DB, source *pantalaimon.Database, server pantalaimon.Server) (string, error) {
	devices, err := source.Devices(ctx, server.Name)
	if err != nil {
		return "", &failure{exitRuntime, err, ""}
	}
	var report strings.Builder
	fmt.Fprintf(&report, "# Section %s of pantalaimon's configuration.\n", server.Name)
	if len(devices) == 0 {
		report.WriteString("# It has no devices: there was nothing to take over.\n")
	}
	for len(devices) > 0 {
		user := devices[0].UserID
		n := slices.IndexFunc(devices, func(d pantalaimon.Device) bool { return d.UserID != user })
		if n < 0 {
			n = len(devices)
		}
		if err := takeUser(ctx, &report, db, source, server, devices[:n]); err != nil {
			return "", err
		}
		devices = devices[n:]
	}
	return report.String(), nil
}

func takeUser(ctx context.Context, report *strings.Builder, db *store.DB, source *pantalaimon.Database, server pantalaimon.Server, devices []pantalaimon.Device) error {
	chosen := devices[len(devices)-1]
	for _, d := range slices.Backward(devices) {
		if !d.Token.IsZero() {
			chosen = d
			break
		}
	}
	for _, d := range devices {
		if d.DeviceID != chosen.DeviceID {
			fmt.Fprintf(report, "# %s, device %s: its room keys only; another device of the user is newer, or has an access token.\n", d.UserID, d.DeviceID)
		}
	}
	from, err := takeover(ctx, source, chosen, devices)
	if err != nil {
		return &failure{exitRuntime, err, ""}
	}
	taken, err := e2ee.TakeOver(ctx, db, from)
	switch {
	case errors.Is(err, e2ee.ErrTakeoverHere), errors.Is(err, e2ee.ErrTakeoverFormat), errors.Is(err, e2ee.ErrTakeoverOtherKey):
		fmt.Fprintf(report, "# %s, device %s: nothing was taken, because %s.\n", chosen.UserID, chosen.DeviceID, notTaken(err))
		return nil
	case err != nil:
		return storeFailure(err)
	}
	fmt.Fprintf(report, "# %s, device %s: taken over, with %s, %s and %s.\n", chosen.UserID, chosen.DeviceID,
		count(taken.RoomKeys, "room key"), count(taken.OlmSessions, "Olm session"), count(taken.Rooms, "encrypted room"))
	if n := taken.UnreadableRoomKeys + taken.UnreadableOlmSessions; n > 0 {
		fmt.Fprintf(report, "#   Not taken: %s and %s, which are not encrypted under pantalaimon's key or not in libolm's format.\n",
			count(taken.UnreadableRoomKeys, "room key"), count(taken.UnreadableOlmSessions, "Olm session"))
	}
	switch {
	case !chosen.Token.IsZero():
	case server.Keyring:
		fmt.Fprintf(report, "#   Its access token is in the system's keyring, where it cannot be read from here. The device is of use\n"+
			"#   to a client that is given it: keyring get pantalaimon %s-%s-token\n", chosen.UserID, chosen.DeviceID)
	default:
		report.WriteString("#   It has no access token any more: the device is of no use, and its room keys are kept.\n")
	}
	return nil
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// notTaken says for a person why a device was not taken.
func notTaken(err error) string {
	switch {
	case errors.Is(err, e2ee.ErrTakeoverHere):
		return "it is in the proxy's database already"
	case errors.Is(err, e2ee.ErrTakeoverOtherKey):
		return "its keys are encrypted under another key than pantalaimon's"
	}
	return "its keys are not in libolm's format: a newer matrix-nio may have written them"
}

// takeover collects what there is of a device, and the room keys and rooms of all devices
// of its user.
func takeover(ctx context.Context, source *pantalaimon.Database, chosen pantalaimon.Device, devices []pantalaimon.Device) (e2ee.Takeover, error) {
	out := e2ee.Takeover{
		UserID: id.UserID(chosen.UserID), DeviceID: id.DeviceID(chosen.DeviceID), PickleKey: secret.Bytes(pantalaimon.PickleKey),
		Account: chosen.Account, Published: chosen.Published, Token: chosen.Token,
	}
	sessions, err := source.OlmSessions(ctx, chosen)
	if err != nil {
		return out, err
	}
	for _, s := range sessions {
		out.OlmSessions = append(out.OlmSessions, e2ee.TakeoverOlmSession{
			ID: id.SessionID(s.ID), TheirKey: id.Curve25519(s.SenderKey), Pickle: s.Pickle, Created: s.Created, Used: s.Used,
		})
	}
	for _, d := range devices {
		rooms, err := source.EncryptedRooms(ctx, d)
		if err != nil {
			return out, err
		}
		for _, room := range rooms {
			if r := id.RoomID(room); !slices.Contains(out.EncryptedRooms, r) {
				out.EncryptedRooms = append(out.EncryptedRooms, r)
			}
		}
	}
	out.RoomKeys = func(yield func(e2ee.TakeoverRoomKey, error) bool) {
		for _, d := range devices {
			for k, err := range source.RoomKeys(ctx, d) {
				key := e2ee.TakeoverRoomKey{
					SessionRef: store.SessionRef{RoomID: id.RoomID(k.RoomID), SessionID: id.SessionID(k.SessionID)},
					SenderKey:  id.Curve25519(k.SenderKey), SigningKey: id.Ed25519(k.SigningKey), Pickle: k.Pickle, ForwardedBy: k.ForwardedBy,
				}
				if !yield(key, err) {
					return
				}
			}
		}
	}
	return out, nil
}

// settingsFor returns the settings with which the proxy takes pantalaimon's place.
func settingsFor(server pantalaimon.Server, cfg *config.Config) string {
	var b strings.Builder
	b.WriteString("# Do not start pantalaimon with these devices again: two programs with the same keys destroy them.\n")
	if server.NoTLSCheck && server.Homeserver.Scheme == "https" {
		b.WriteString("# pantalaimon did not check the homeserver's certificate (SSL = False). The proxy always does:\n" +
			"# name the certificate, or that of its issuer, in upstream.ca_file.\n")
	}
	if server.Proxy != "" {
		b.WriteString("# pantalaimon went through another proxy (Proxy). This one connects by itself: see upstream in the configuration.\n")
	}
	if server.IgnoreVerification {
		b.WriteString("# pantalaimon sent to devices that nobody had verified (IgnoreVerification = True). The proxy gives keys to devices\n" +
			"# that their owners have confirmed, whoever verified whom: see policy.send.\n")
	}
	data, err := filepath.Abs(cfg.Data)
	if err != nil {
		data = cfg.Data
	}
	fmt.Fprintf(&b, "homeserver: %q\nlisten: %q\ndata: %q\n", strings.TrimSuffix(server.Homeserver.String(), "/"), server.Listen, data)
	return b.String()
}
