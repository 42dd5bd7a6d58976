package wire

import (
	"encoding/json"
	"net/url"
	"slices"
)

// Challenge is a homeserver's 401 with user-interactive authentication flows.
type Challenge struct {
	Session   string
	flows     [][]string
	Completed []string
	params    map[string]json.RawMessage
	body      json.RawMessage
}

// readChallenge parses a 401 that asks for user-interactive authentication; nil for any
// other.
func readChallenge(body []byte) *Challenge {
	var c struct {
		Session   string                     `json:"session"`
		Completed []string                   `json:"completed"`
		Params    map[string]json.RawMessage `json:"params"`
		Flows     []struct {
			Stages []string `json:"stages"`
		} `json:"flows"`
	}
	if json.Unmarshal(body, &c) != nil || len(c.Flows) == 0 {
		return nil
	}
	out := &Challenge{Session: c.Session, Completed: c.Completed, params: c.Params, body: body}
	for _, f := range c.Flows {
		out.flows = append(out.flows, f.Stages)
	}
	return out
}

// AcceptsPassword reports whether a password alone is enough.
func (c *Challenge) AcceptsPassword() bool {
	return slices.ContainsFunc(c.flows, func(stages []string) bool {
		return len(stages) == 1 && stages[0] == "m.login.password"
	})
}

// Needed returns the error that makes the client do the authentication itself. With OAuth a
// stage names a page where the user allows the reset (m.oauth, requirement 12.6;
// org.matrix.cross_signing_reset before it).
func (c *Challenge) Needed() *AuthNeededError {
	out := &AuthNeededError{Body: c.body}
	for _, stages := range c.flows {
		for _, stage := range stages {
			if slices.Contains(c.Completed, stage) {
				continue
			}
			if out.Stage == "" {
				out.Stage = stage
			}
			if page := webPage(c.params[stage]); out.URL == "" && page != "" {
				out.Stage, out.URL = stage, page
			}
			break // the stages of a flow have an order
		}
	}
	return out
}

// webPage returns the url in a stage's parameters, if a browser may open it.
func webPage(params json.RawMessage) string {
	var p struct {
		URL string `json:"url"`
	}
	if params == nil || json.Unmarshal(params, &p) != nil {
		return ""
	}
	u, err := url.Parse(p.URL)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" {
		return ""
	}
	return p.URL
}
