package console

import (
	"strings"

	"e2ee-proxy/console/internal/gate"
)

// allPages returns every page by method and pattern; package proxy has the same ones in its table.
func (c *Console) allPages() map[string]page {
	all := map[string]page{
		"GET /style.css": {open: true, do: file("style.css", "text/css; charset=utf-8")},
		"GET /live.js":   {open: true, do: file("live.js", "text/javascript; charset=utf-8")},

		"GET /sign-in":            {open: true, do: signInPage},
		"POST /sign-in":           {open: true, do: signInByPassword},
		"POST /sign-in/token":     {open: true, do: signInByToken},
		"GET /sign-in/sso":        {open: true, do: beginSSO},
		"GET /sign-in/sso/return": {open: true, do: endSSO},
		"POST /sign-out":          {do: signOut},

		"GET ":        {device: true, do: home},
		"GET /":       {do: func(q *query) error { return q.redirect("", "") }},
		"GET /events": {device: true, do: events},

		"GET /devices":  {device: true, do: devices},
		"POST /acting":  {device: true, do: choose},
		"GET /warnings": {device: true, do: warnings},

		"POST /warnings/{warningId}/dismiss": {device: true, do: dismiss},

		"GET /people":                    {device: true, do: people},
		"POST /people":                   {device: true, do: findPerson},
		"GET /people/{userId}":           {device: true, do: person},
		"POST /people/{userId}/{action}": {device: true, do: actOnPerson},

		"GET /exceptions": {device: true, do: exceptions},
		"GET /rollout":    {device: true, do: rollout},

		"GET /recovery":           {device: true, do: recovery},
		"POST /recovery/{action}": {device: true, do: actOnRecovery},
		"GET /backup":             {device: true, do: backup},
		"POST /backup/restore":    {device: true, do: restore},

		"GET /verifications":                    {device: true, do: verifications},
		"POST /verifications":                   {device: true, do: requestVerification},
		"GET /verifications/{flowId}":           {device: true, do: verification},
		"GET /verifications/{flowId}/qr.svg":    {device: true, do: qrPicture},
		"POST /verifications/{flowId}/picture":  {device: true, do: scanPicture},
		"POST /verifications/{flowId}/{action}": {device: true, do: actOnVerification},
	}
	for at, do := range map[string]func(q *query) error{
		"GET /admin": adminAccounts, "GET /admin/accounts/{userId}": adminAccount, "GET /admin/exceptions": adminExceptions,
		"GET /admin/warnings": adminWarnings, "GET /admin/rollout": adminRollout, "POST /admin/accounts/{userId}/end-sessions": adminEndSessions,
	} {
		all[at] = page{admin: true, do: do}
	}
	return all
}

// Pages returns the method and the pattern of every page.
func (c *Console) Pages() (all []string) {
	for at := range c.pages {
		method, path, _ := strings.Cut(at, " ")
		all = append(all, method+" "+gate.Path+path)
	}
	return all
}
