package console

import (
	"context"
	"net/http"

	"e2ee-proxy/e2ee"
)

// adminPage is how many rows a page of the overview has.
const adminPage = "100"

// overview is a page of the overview.
type overview struct {
	// Tab is which of its parts it is.
	Tab  string
	Rows any
	Next string
	// Chart is what there is to be seen at a glance.
	Bars []bar
}

// read reads a page of the overview in the administrator's name.
func read[T any](q *query, from func(ctx context.Context, who string, page e2ee.Page) (*T, error)) (*T, error) {
	page, err := e2ee.ParsePage(q.Request.URL.Query().Get("from"), adminPage)
	if err != nil {
		return nil, err
	}
	return from(q.ctx, string(q.session.UserID), page)
}

func (q *query) overview(tab, title string, o overview) error {
	v := q.view("admin", title)
	o.Tab = tab
	v.Place, v.Data = "admin", o
	return q.write(http.StatusOK, v)
}

func adminAccounts(q *query) error {
	found, err := read(q, q.c.o.Administration.Accounts)
	if err != nil {
		return err
	}
	var with, without, warned, excepted int
	for _, a := range found.Accounts {
		if a.Identity == "none" {
			without++
		} else {
			with++
		}
		if a.Warnings > 0 {
			warned++
		}
		if a.Exceptions > 0 {
			excepted++
		}
	}
	o := overview{Rows: found.Accounts, Next: found.Next}
	if len(found.Accounts) > 0 {
		o.Bars = barsOf([]string{"With a digital identity", "Without one", "With warnings", "With exceptions"}, []int{with, without, warned, excepted})
	}
	return q.overview("accounts", "All accounts", o)
}

func adminExceptions(q *query) error {
	found, err := read(q, q.c.o.Administration.Exceptions)
	if err != nil {
		return err
	}
	return q.overview("exceptions", "Exceptions of all accounts", overview{Rows: found.Exceptions, Next: found.Next})
}

func adminWarnings(q *query) error {
	found, err := read(q, q.c.o.Administration.Warnings)
	if err != nil {
		return err
	}
	return q.overview("warnings", "Warnings of all accounts", overview{Rows: found.Warnings, Next: found.Next})
}

func adminRollout(q *query) error {
	found, err := read(q, q.c.o.Administration.Rollout)
	if err != nil {
		return err
	}
	var withoutKey, heldBack, hidden, blocked int
	for _, a := range found.Accounts {
		for _, r := range a.Would.Rooms {
			withoutKey += r.WithoutKey
			heldBack += r.Messages
			if len(r.BlockedBy) > 0 {
				blocked++
			}
		}
		hidden += a.Would.Hidden
	}
	o := overview{Rows: found, Next: found.Next}
	o.Bars = barsOf(
		[]string{"Devices that would not get messages", "Messages that would not be shown", "Devices that would be hidden", "Rooms that would wait for a person"},
		[]int{withoutKey, heldBack, hidden, blocked})
	return q.overview("rollout", "What a stricter policy would have done", o)
}

func adminAccount(q *query) error {
	user, err := userOf(q.Endpoint.Params["userId"])
	if err != nil {
		return err
	}
	found, err := q.c.o.Administration.Account(q.ctx, string(q.session.UserID), user)
	if err != nil {
		return err
	}
	return q.show("account", "admin", string(user), found)
}

// adminEndSessions logs an account's devices out, and shows what became of each.
func adminEndSessions(q *query) error {
	user, err := userOf(q.Endpoint.Params["userId"])
	if err != nil {
		return err
	}
	ended, err := q.c.o.Administration.EndSessions(q.ctx, string(q.session.UserID), user)
	if err != nil {
		return err
	}
	return q.show("ended", "admin", "Sessions of "+string(user), ended)
}
