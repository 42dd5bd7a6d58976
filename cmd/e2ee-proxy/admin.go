package main

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/config"
	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/ops"
	"e2ee-proxy/internal/secret"
)

// withOpsToken is who asks, in the audit log, where it is the token that says who is asking.
const withOpsToken = "ops_token"

// adminCalls returns the calls of administrators for the operators' listener.
func adminCalls(inForce *atomic.Pointer[config.Config], engine *e2ee.Engine, log zerolog.Logger) *ops.Admin {
	see := engine.Overview()
	return &ops.Admin{
		Token: func() secret.String { return inForce.Load().OpsToken },
		Calls: []ops.AdminCall{
			{Method: http.MethodGet, Path: "/accounts", Do: adminPage(see.Accounts)},
			{Method: http.MethodGet, Path: "/accounts/{userId}", Do: adminAccount(see.Account)},
			{Method: http.MethodPost, Path: "/accounts/{userId}/end_sessions", Do: adminAccount(see.EndSessions)},
			{Method: http.MethodGet, Path: "/exceptions", Do: adminPage(see.Exceptions)},
			{Method: http.MethodGet, Path: "/warnings", Do: adminPage(see.Warnings)},
			{Method: http.MethodGet, Path: "/rollout", Do: adminPage(see.Rollout)},
		},
		Fault: adminFault,
		Failed: func(call string, err error) {
			log.Error().Err(err).Str("call", call).Msg("a call of an administrator failed")
		},
	}
}

func adminPage[T any](read func(ctx context.Context, who string, page e2ee.Page) (*T, error)) func(ctx context.Context, user, from, limit string) (any, error) {
	return func(ctx context.Context, _, from, limit string) (any, error) {
		page, err := e2ee.ParsePage(from, limit)
		if err != nil {
			return nil, err
		}
		return read(ctx, withOpsToken, page)
	}
}

func adminAccount[T any](do func(ctx context.Context, who string, user id.UserID) (*T, error)) func(ctx context.Context, user, from, limit string) (any, error) {
	return func(ctx context.Context, user, _, _ string) (any, error) {
		return do(ctx, withOpsToken, id.UserID(user))
	}
}

func adminFault(err error) (status int, errCode, text string, known bool) {
	switch {
	case errors.Is(err, e2ee.ErrPage):
		return http.StatusBadRequest, "M_INVALID_PARAM", "limit is a number from 1 to 500, and from the next of an earlier page.", true
	case errors.Is(err, e2ee.ErrNoAccount):
		return http.StatusNotFound, "M_NOT_FOUND", "The proxy has no such account.", true
	}
	return 0, "", "", false
}
