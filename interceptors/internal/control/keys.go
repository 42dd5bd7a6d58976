package control

import (
	"net/http"
	"time"

	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/secret"
)

// Room keys as files, in the format that clients exchange: POST keys/export {passphrase}
// answers with the file itself, text/plain; POST keys/import {passphrase, keys} takes its
// text and answers how many of the keys were new. POST keys/restore starts fetching all
// keys of the account's backup. A file costs about a second of CPU time, a restore a
// download, so that all three are limited.
const (
	exportBurst    = 4
	exportInterval = time.Minute
)

type exportBody struct {
	Passphrase *secret.String `json:"passphrase"`
}

func (b *exportBody) passphrase() (secret.String, error) {
	if b.Passphrase == nil || b.Passphrase.IsZero() {
		return secret.String{}, apierr.MissingParam("passphrase is missing: the file is encrypted with it.")
	}
	return *b.Passphrase, nil
}

func (c *api) exportKeys(a request) (any, error) {
	var body exportBody
	if err := readBody(a.Exchange, &body); err != nil {
		return nil, err
	}
	passphrase, err := body.passphrase()
	if err != nil {
		return nil, err
	}
	if err := c.Keys(a.ctx, a.Identity.UserID); err != nil {
		return nil, err
	}
	h := a.Writer.Header()
	if h.Get("Access-Control-Allow-Origin") == "" {
		h.Set("Access-Control-Allow-Origin", "*")
	}
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Content-Disposition", `attachment; filename="room-keys.txt"`)
	out := &lateWriter{w: a.Writer}
	if err := a.ExportKeys(a.ctx, passphrase, out); err != nil {
		if !out.begun {
			h.Del("Content-Disposition")
		}
		return nil, err
	}
	return answered{}, nil
}

// lateWriter sends status 200 with the first byte.
type lateWriter struct {
	w     http.ResponseWriter
	begun bool
}

func (l *lateWriter) Write(p []byte) (int, error) {
	if !l.begun {
		l.begun = true
		l.w.WriteHeader(http.StatusOK)
	}
	return l.w.Write(p)
}

func (c *api) restoreKeys(a request) (any, error) {
	if err := readBody(a.Exchange, &emptyBody{}); err != nil {
		return nil, err
	}
	if err := c.Keys(a.ctx, a.Identity.UserID); err != nil {
		return nil, err
	}
	return done{}, a.RestoreHistory(a.ctx)
}
