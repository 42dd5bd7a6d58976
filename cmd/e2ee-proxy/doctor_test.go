package main

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"e2ee-proxy/config"
	"e2ee-proxy/e2ee"
)

// answers are what is fetched, by address.
type answers map[string]string

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	text, ok := a[r.URL.String()]
	status := http.StatusOK
	if !ok {
		status = http.StatusNotFound
	}
	return &http.Response{StatusCode: status, Header: http.Header{"Date": {time.Now().UTC().Format(http.TimeFormat)}}, Body: io.NopCloser(strings.NewReader(text)), Request: r}, nil
}

// state returns how a link stands; empty if there is none.
func (d *patient) state(name string) e2ee.CheckupState {
	for i := range d.links {
		if d.links[i].Name == name {
			return d.links[i].State
		}
	}
	return ""
}

// A clock that is off is found, in both directions; without a time nothing is said of it.
func TestDoctorClock(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for off, want := range map[time.Duration]e2ee.CheckupState{
		0: e2ee.CheckupOK, 50 * time.Second: e2ee.CheckupOK, -50 * time.Second: e2ee.CheckupOK,
		2 * time.Minute: e2ee.CheckupCareful, -2 * time.Minute: e2ee.CheckupCareful,
		time.Hour: e2ee.CheckupBroken, -time.Hour: e2ee.CheckupBroken,
	} {
		var d patient
		d.clock(now.Add(off).Format(http.TimeFormat), now)
		if d.state("clock") != want {
			t.Errorf("%s: %+v", off, d.links)
		}
	}
	var d patient
	d.clock("yesterday", now)
	if d.state("clock") != e2ee.CheckupUnknown {
		t.Errorf("without a time: %+v", d.links)
	}
}

// Clients that are sent round the proxy by their server's name are found.
func TestDoctorDiscovery(t *testing.T) {
	t.Parallel()
	const at = "https://example.org/.well-known/matrix/client"
	public, err := url.Parse("https://proxy.example.org/")
	if err != nil {
		t.Fatal(err)
	}
	var with config.Config
	if err := with.PublicURL.UnmarshalText([]byte(public.String())); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		said string
		cfg  *config.Config
		want e2ee.CheckupState
	}{
		"to the proxy":        {`{"m.homeserver":{"base_url":"https://proxy.example.org"}}`, &with, e2ee.CheckupOK},
		"round the proxy":     {`{"m.homeserver":{"base_url":"https://matrix.example.org"}}`, &with, e2ee.CheckupCareful},
		"no public_url":       {`{"m.homeserver":{"base_url":"https://matrix.example.org"}}`, &config.Config{}, e2ee.CheckupCareful},
		"something else":      {`<html>`, &with, e2ee.CheckupUnknown},
		"no homeserver in it": {`{"m.homeserver":"x"}`, &with, e2ee.CheckupUnknown},
	} {
		var d patient
		d.way(t.Context(), test.cfg, "example.org:8448", answers{at: test.said})
		if d.state("discovery") != test.want {
			t.Errorf("%s: %+v", name, d.links)
		}
	}
	var d patient
	d.way(t.Context(), &with, "example.org", answers{})
	if d.state("discovery") != e2ee.CheckupUnknown {
		t.Errorf("without an answer: %+v", d.links)
	}
}

// A homeserver that speaks nothing of today's is found.
func TestDoctorVersions(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]e2ee.CheckupState{
		`{"versions":["r0.6.1","v1.1","v1.11"]}`: e2ee.CheckupOK,
		`{"versions":["r0.0.1","r0.6.1"]}`:       e2ee.CheckupBroken,
	} {
		var cfg config.Config
		if err := cfg.Homeserver.UnmarshalText([]byte("https://matrix.example.org")); err != nil {
			t.Fatal(err)
		}
		var d patient
		d.homeserver(t.Context(), &cfg, answers{"https://matrix.example.org/_matrix/client/versions": said})
		if d.state("homeserver") != e2ee.CheckupOK || d.state("versions") != want || d.state("clock") != e2ee.CheckupOK {
			t.Errorf("%s: %+v", said, d.links)
		}
	}
}

// The worst link decides the exit code; what could not be looked at does not.
func TestDoctorSeverity(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		states []e2ee.CheckupState
		want   e2ee.CheckupState
	}{
		{nil, e2ee.CheckupOK},
		{[]e2ee.CheckupState{e2ee.CheckupOK, e2ee.CheckupUnknown}, e2ee.CheckupOK},
		{[]e2ee.CheckupState{e2ee.CheckupCareful, e2ee.CheckupOK}, e2ee.CheckupCareful},
		{[]e2ee.CheckupState{e2ee.CheckupCareful, e2ee.CheckupBroken, e2ee.CheckupOK}, e2ee.CheckupBroken},
	} {
		var d patient
		for _, s := range test.states {
			d.add("link", s, "m", "", "")
		}
		if got := d.severity(); got != test.want {
			t.Errorf("%v gives %s", test.states, got)
		}
	}
}
