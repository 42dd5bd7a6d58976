package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"e2ee-proxy/config"
	"e2ee-proxy/e2ee"
)

const (
	// doctorPatience is how long an answer may take.
	doctorPatience = 15 * time.Second
	// clockCareful is how far a clock may be off; at clockBroken verifications fail, which are
	// valid from ten minutes ago to five minutes ahead.
	clockCareful = time.Minute
	clockBroken  = 5 * time.Minute
)

// homeserver looks at the homeserver, what it speaks and what time it has there.
func (d *patient) homeserver(ctx context.Context, cfg *config.Config, transport http.RoundTripper) {
	const why = "Everything goes there."
	if cfg.Homeserver.IsZero() {
		d.add("homeserver", e2ee.CheckupUnknown, "It is not known here.", "", "Set homeserver in the file or the environment, as for serve, or say --homeserver.")
		return
	}
	began := time.Now()
	got, err := d.fetch(ctx, transport, cfg.Homeserver.URL().JoinPath("/_matrix/client/versions").String())
	if err != nil {
		d.add("homeserver", e2ee.CheckupBroken, "It cannot be reached: "+err.Error()+".", why, "Check the setting homeserver, and whether the homeserver runs.")
		return
	}
	if err := checkVersions(got.status, got.body); err != nil || got.status != http.StatusOK {
		d.add("homeserver", e2ee.CheckupBroken, fmt.Sprintf("What answers there with status %d says no versions of Matrix.", got.status), why,
			"Correct the setting homeserver: the right address is in /.well-known/matrix/client of the server's name.")
		return
	}
	d.add("homeserver", e2ee.CheckupOK, "It answers.", "", "")
	d.versions(got.body)
	d.clock(got.date, began)
}

// versions looks at which versions of the specification the homeserver has.
func (d *patient) versions(body []byte) {
	var said struct {
		Versions []string `json:"versions"`
	}
	// checkVersions has read them.
	_ = json.Unmarshal(body, &said)
	for i := len(said.Versions) - 1; i >= 0; i-- {
		if strings.HasPrefix(said.Versions[i], "v1.") {
			d.add("versions", e2ee.CheckupOK, "It speaks Matrix "+said.Versions[i]+".", "", "")
			return
		}
	}
	d.add("versions", e2ee.CheckupBroken, "It speaks no Matrix v1.", "The encryption that others use today is not there before.", "Bring the homeserver up to date.")
}

// clock compares the homeserver's clock with this machine's.
func (d *patient) clock(date string, now time.Time) {
	there, err := http.ParseTime(date)
	if err != nil {
		d.add("clock", e2ee.CheckupUnknown, "The homeserver does not say what time it is.", "", "")
		return
	}
	off := now.Sub(there).Abs().Round(time.Second)
	const why, hint = "Verifications are valid for some minutes only, and times are shown wrong.", "Set both clocks by the network (NTP)."
	switch {
	case off >= clockBroken:
		d.add("clock", e2ee.CheckupBroken, "This machine's and the homeserver's differ by "+off.String()+".", why, hint)
	case off >= clockCareful:
		d.add("clock", e2ee.CheckupCareful, "This machine's and the homeserver's differ by "+off.String()+".", why, hint)
	default:
		d.add("clock", e2ee.CheckupOK, "This machine's and the homeserver's agree.", "", "")
	}
}

// way looks at where clients are sent that look for the homeserver by its name.
func (d *patient) way(ctx context.Context, cfg *config.Config, name string, transport http.RoundTripper) {
	ctx, cancel := context.WithTimeout(ctx, doctorPatience)
	defer cancel()
	if host := (&url.URL{Host: name}).Hostname(); host != "" {
		name = host
	}
	got, err := d.fetch(ctx, transport, "https://"+name+"/.well-known/matrix/client")
	if err != nil || got.status != http.StatusOK {
		d.add("discovery", e2ee.CheckupUnknown, name+" does not say where its homeserver is: clients need to be told the address of the proxy.", "", "")
		return
	}
	var said struct {
		Homeserver struct {
			BaseURL string `json:"base_url"`
		} `json:"m.homeserver"`
	}
	if json.Unmarshal(got.body, &said) != nil || said.Homeserver.BaseURL == "" {
		d.add("discovery", e2ee.CheckupUnknown, name+" says nothing of a homeserver in /.well-known/matrix/client.", "", "")
		return
	}
	given := strings.TrimSuffix(said.Homeserver.BaseURL, "/")
	if !cfg.PublicURL.IsZero() && given == strings.TrimSuffix(cfg.PublicURL.String(), "/") {
		d.add("discovery", e2ee.CheckupOK, "Clients that look for "+name+" are sent to the proxy.", "", "")
		return
	}
	d.add("discovery", e2ee.CheckupCareful, "Clients that look for "+name+" are sent to "+given+", and not to the proxy.",
		"What they send round the proxy is not encrypted by it.", "Give clients the address of the proxy itself, or have https://"+name+"/.well-known/matrix/client name it, and set public_url.")
}

// fetched is a resource.
type fetched struct {
	status int
	date   string // as the header of that name has it
	body   []byte
}

// fetch reads a resource.
func (d *patient) fetch(ctx context.Context, transport http.RoundTripper, at string) (fetched, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return fetched{}, errors.New("the address is not one")
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return fetched{}, err //nolint:wrapcheck // it is shown to a person, after what it is about
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxVersions))
	return fetched{resp.StatusCode, resp.Header.Get("Date"), body}, errors.Join(err, resp.Body.Close())
}
