package core

import (
	"slices"

	"e2ee-proxy/internal/secret"
)

// DropToken stops the use of a token and reports whether the device has none left. A
// refreshed token replaces it, if there is one.
func (p *Device) DropToken(used secret.String) bool {
	p.Mu.Lock()
	defer p.Mu.Unlock()
	if p.Record.Token != used {
		return false
	}
	p.Record.Token, p.Record.NextToken = p.Record.NextToken, secret.String{}
	return p.Record.Token.IsZero()
}

// Tokens returns the tokens of the device's session, the one in use first.
func (p *Device) Tokens() []secret.String {
	p.Mu.Lock()
	defer p.Mu.Unlock()
	return Distinct(p.Record.Token, p.Record.NextToken, p.Record.Row.Token)
}

// Distinct removes empty and repeated tokens.
func Distinct(all ...secret.String) []secret.String {
	var kept []secret.String
	for _, t := range all {
		if !t.IsZero() && !slices.Contains(kept, t) {
			kept = append(kept, t)
		}
	}
	return kept
}
