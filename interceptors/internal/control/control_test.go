package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
)

var update = flag.Bool("update", false, "write the golden files")

const masterKey = "bTvXqyuO8jQIBqFdFJbQAVpqDFxAiZQRMbAmzJJQBFM"

// callOf returns a call of the control API, with parameters for every pattern. The path "x"
// stands for the handler's own method and path.
func callOf(handler, method, path, body string) clientCall {
	for _, k := range (&api{}).calls() {
		if path == "x" && k.name == handler {
			method, path = k.method, k.path[1:]
		}
	}
	return clientCall{
		handler: handler, method: method, pattern: "/_e2ee_proxy/v1/" + path, body: body,
		params: map[string]string{"userId": bob.String(), "deviceId": "LAPTOP", "warningId": "w1", "flowId": "v1"},
	}
}

// Every call and answer of the control API, as on the wire.
func TestControlGolden(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	for _, empty := range []bool{false, true} {
		for _, tt := range []struct{ handler, method, path, body string }{
			{Status, "GET", "status", ""},
			{Bootstrap, "POST", "bootstrap", ``},
			{Bootstrap, "POST", "bootstrap", `{"password":"pw"}`},
			{Bootstrap, "POST", "bootstrap", `{"auth":{"type":"m.login.dummy","session":"s"}}`},
			{Recover, "POST", "recover", `{"recovery_key":"EsTk"}`},
			{Recover, "POST", "recover", `{"passphrase":"pass phrase"}`},
			{Recover, "POST", "recover", `{"recovery_key":"EsTk","restore":true}`},
			{Reset, "POST", "reset", `{"password":"pw","confirm":true}`},
			{Reset, "POST", "reset", `{"confirm":true}`},
			{RecoveryKey, "GET", "recovery_key", ""},
			{DeleteRecoveryKey, "DELETE", "recovery_key", ""},
			{User, "GET", "users/{userId}", ""},
			{Acknowledge, "POST", "users/{userId}/acknowledge", `{"master_key":"` + masterKey + `="}`},
			{Withdraw, "POST", "users/{userId}/withdraw_verification", ``},
			{Override, "PUT", "users/{userId}/devices/{deviceId}/override", `{"trusted":true}`},
			{Override, "PUT", "users/{userId}/devices/{deviceId}/override", `{"trusted":false}`},
			{Override, "PUT", "users/{userId}/devices/{deviceId}/override", `{"trusted":null}`},
			{Warnings, "GET", "warnings", ""},
			{Dismiss, "POST", "warnings/{warningId}/dismiss", `{}`},
			{ImportKeys, "POST", "keys/import", `{"passphrase":"pass","keys":"-----BEGIN"}`},
			{RestoreKeys, "POST", "keys/restore", ""},
			{VerifyUser, "POST", "users/{userId}/verify", `{"master_key":" ` + masterKey[:20] + " \\n " + masterKey[20:] + `="}`},
			{Verifications, "GET", "verifications", ""},
			{Verify, "POST", "verifications", `{"user_id":"@bob:hs.example"}`},
			{Verify, "POST", "verifications", `{"user_id":"@bob:hs.example","device_id":"PHONE"}`},
			{Verification, "GET", "verifications/{flowId}", ""},
			{VerificationAccept, "POST", "verifications/{flowId}/accept", ""},
			{VerificationEmoji, "POST", "verifications/{flowId}/emoji", `{}`},
			{VerificationConfirm, "POST", "verifications/{flowId}/confirm", `{"match":true}`},
			{VerificationConfirm, "POST", "verifications/{flowId}/confirm", `{"match":false}`},
			{VerificationScan, "POST", "verifications/{flowId}/scan", `{"qr":" TUFU\n UklY= "}`},
			{VerificationScanned, "POST", "verifications/{flowId}/scanned", `{"yes":true}`},
			{VerificationCancel, "POST", "verifications/{flowId}/cancel", ""},
		} {
			if empty && tt.method != http.MethodGet {
				continue
			}
			w, c := controlWorld(t, e2ee.ModeProxied)
			c.empty = empty
			rec, err := w.do(callOf(tt.handler, tt.method, tt.path, tt.body))
			fmt.Fprintf(&out, "%s %s %s\n", tt.method, tt.path, tt.body)
			for _, asked := range c.asked {
				fmt.Fprintf(&out, "asks: %s\n", strings.TrimSpace(asked))
			}
			if err != nil {
				fmt.Fprintf(&out, "error: %v\n\n", err)
				continue
			}
			var indented bytes.Buffer
			if err := json.Indent(&indented, rec.Body.Bytes(), "", "  "); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&out, "%d\n%s\n\n", rec.Code, &indented)
			h := rec.Header()
			if h.Get("Cache-Control") != "no-store" || h.Get("Content-Type") != "application/json" || h.Get("Access-Control-Allow-Origin") != "*" {
				t.Errorf("%s: headers %v", tt.path, h)
			}
			w.wantNothingUpstream()
		}
	}
	golden(t, "control.txt", out.Bytes())
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got; -update writes it):\n%s", name, diff)
	}
}

// Exported keys come as a file, and a failure before its first byte as an error.
func TestControlExport(t *testing.T) {
	t.Parallel()
	w, c := controlWorld(t, e2ee.ModeProxied)
	rec, err := w.do(callOf(ExportKeys, http.MethodPost, "keys/export", `{"passphrase":"pass"}`))
	if err != nil {
		t.Fatal(err)
	}
	if h := rec.Header(); rec.Body.String() != "-----BEGIN" || h.Get("Content-Type") != "text/plain; charset=utf-8" ||
		h.Get("Content-Disposition") == "" || h.Get("Cache-Control") != "no-store" {
		t.Errorf("%q, headers %v", rec.Body, h)
	}
	c.err = errors.New("no keys")
	rec, err = w.do(callOf(ExportKeys, http.MethodPost, "keys/export", `{"passphrase":"pass"}`))
	if err == nil || rec.Body.Len() > 0 || rec.Header().Get("Content-Disposition") != "" {
		t.Errorf("a failed export: %v, %q, headers %v", err, rec.Body, rec.Header())
	}
}

// Bad input changes nothing: the engine is not asked.
func TestControlBadInput(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		handler, body, code string
		params              map[string]string
	}{
		{handler: Bootstrap, body: `{`, code: apierr.CodeNotJSON},
		{handler: Bootstrap, body: `[]`, code: apierr.CodeBadJSON},
		{handler: Bootstrap, body: `{"Password":"x"}`, code: apierr.CodeBadJSON},
		{handler: Bootstrap, body: `{"password":"` + canary + `","password":"y"}`, code: apierr.CodeBadJSON},
		{handler: Bootstrap, body: `{"password":7}`, code: apierr.CodeBadJSON},
		{handler: Bootstrap, body: `{"password":""}`, code: apierr.CodeBadJSON},
		{handler: Bootstrap, body: `{"confirm":true}`, code: apierr.CodeBadJSON},
		{handler: Bootstrap, body: `{"auth":"` + canary + `"}`, code: apierr.CodeBadJSON},
		{handler: Bootstrap, body: `{"auth":{},"password":"x"}`, code: apierr.CodeBadJSON},
		{handler: Recover, body: ``, code: apierr.CodeBadJSON},
		{handler: Recover, body: `{"recovery_key":"` + canary + `","passphrase":"b"}`, code: apierr.CodeBadJSON},
		{handler: Recover, body: `{"recovery_key":""}`, code: apierr.CodeBadJSON},
		{handler: Recover, body: `{"recovery_key":["` + canary + `"]}`, code: apierr.CodeBadJSON},
		{handler: Recover, body: `{"key":"` + canary + `"}`, code: apierr.CodeBadJSON},
		{handler: Reset, body: ``, code: apierr.CodeMissingParam},
		{handler: Reset, body: `{"confirm":false}`, code: apierr.CodeMissingParam},
		{handler: Reset, body: `{"confirm":"true"}`, code: apierr.CodeBadJSON},
		{handler: Reset, body: `{"confirm":1}`, code: apierr.CodeBadJSON},
		{handler: Reset, body: `{"Confirm":true}`, code: apierr.CodeBadJSON},
		{handler: Acknowledge, body: `{}`, code: apierr.CodeMissingParam},
		{handler: Acknowledge, body: `{"master_key":"x"}`, code: apierr.CodeInvalidParam},
		{handler: Acknowledge, body: `{"master_key":"AAAA"}`, code: apierr.CodeInvalidParam},
		{handler: Acknowledge, body: `{"master_key":"` + masterKey + `"}`, code: apierr.CodeInvalidParam, params: map[string]string{"userId": "bob"}},
		{handler: User, code: apierr.CodeInvalidParam, params: map[string]string{"userId": ""}},
		{handler: Withdraw, code: apierr.CodeInvalidParam, params: map[string]string{"userId": "@:"}},
		{handler: Withdraw, body: `{"a":1}`, code: apierr.CodeBadJSON},
		{handler: Override, body: `{}`, code: apierr.CodeMissingParam},
		{handler: Override, body: `{"trusted":"yes"}`, code: apierr.CodeBadJSON},
		{handler: Override, body: `{"trusted":true}`, code: apierr.CodeInvalidParam, params: map[string]string{"userId": bob.String()}},
		{handler: Dismiss, body: `{"a":1}`, code: apierr.CodeBadJSON},
		{handler: Recover, body: `{"recovery_key":"k","restore":"yes"}`, code: apierr.CodeBadJSON},
		{handler: ExportKeys, body: `{}`, code: apierr.CodeMissingParam},
		{handler: ExportKeys, body: `{"passphrase":""}`, code: apierr.CodeMissingParam},
		{handler: ExportKeys, body: `{"passphrase":["` + canary + `"]}`, code: apierr.CodeBadJSON},
		{handler: ImportKeys, body: `{"passphrase":"p"}`, code: apierr.CodeMissingParam},
		{handler: ImportKeys, body: `{"keys":"k"}`, code: apierr.CodeMissingParam},
		{handler: ImportKeys, body: `{"passphrase":"p","keys":1}`, code: apierr.CodeBadJSON},
		{handler: RestoreKeys, body: `{"restore":true}`, code: apierr.CodeBadJSON},
	} {
		w, asked := controlWorld(t, e2ee.ModeProxied)
		c := callOf(tt.handler, http.MethodPost, "x", tt.body)
		if tt.params != nil {
			c.params = tt.params
		}
		_, err := w.do(c)
		wantError(t, err, http.StatusBadRequest, tt.code)
		if len(asked.asked) > 0 {
			t.Errorf("%s %s: the engine was asked %q", tt.handler, tt.body, asked.asked)
		}
	}
}

// What a reason of the engine is to the client.
func TestControlErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err    error
		status int
		code   string
	}{
		{e2ee.ErrIdentityExists, 409, codeIdentityExists},
		{e2ee.ErrNoIdentity, 409, codeNoIdentity},
		{e2ee.ErrNoRecoveryKey, 404, apierr.CodeNotFound},
		{e2ee.ErrWrongRecoveryKey, 403, codeWrongRecoveryKey},
		{e2ee.ErrNoSecretStorage, 409, codeNoSecretStorage},
		{e2ee.ErrNoPassphrase, 409, codeNoSecretStorage},
		{e2ee.ErrNoBackup, 409, codeNoBackup},
		{e2ee.ErrSecretMissing, 409, codeSecretMissing},
		{e2ee.ErrSecretMismatch, 409, codeSecretMismatch},
		{e2ee.ErrWrongPassword, 403, apierr.CodeForbidden},
		{e2ee.ErrUnknownUser, 404, apierr.CodeNotFound},
		{e2ee.ErrUnknownDevice, 404, apierr.CodeNotFound},
		{e2ee.ErrUnknownWarning, 404, apierr.CodeNotFound},
		{e2ee.ErrMasterKeyNotCurrent, 409, codeMasterKeyNotCurrent},
		{e2ee.ErrVerificationLost, 409, codeVerificationLost},
		{e2ee.ErrNotVerified, 409, codeNotVerified},
		{e2ee.ErrNotProxied, 409, codeNotProxied},
		{e2ee.ErrKeysReplaced, 409, codeKeysReplaced},
		{e2ee.ErrKeysRefused, 409, codeKeysRefused},
		{e2ee.ErrSignatureNotShown, 409, codeSignatureNotShown},
		{e2ee.ErrSignatureRefused, 409, codeSignatureRefused},
		{e2ee.ErrDeviceNotSigned, 403, apierr.CodeDeviceNotSigned},
		{e2ee.ErrCannotEncrypt, 503, apierr.CodeCannotEncrypt},
		{e2ee.ErrClosed, 503, apierr.CodeUnknown},
		{e2ee.ErrLeaseLost, 503, apierr.CodeUnknown},
		{&e2ee.AuthNeededError{Body: json.RawMessage(`<html>`)}, 502, apierr.CodeUnknown},
		{&e2ee.UpstreamError{Status: 401, ErrCode: "M_UNKNOWN_TOKEN"}, 401, apierr.CodeUnknownToken},
		{&e2ee.UpstreamError{Status: 403, ErrCode: "M_FORBIDDEN"}, 403, apierr.CodeForbidden},
		{&e2ee.UpstreamError{Status: 404, ErrCode: "M_UNRECOGNIZED"}, 502, apierr.CodeUnknown},
		{&e2ee.UpstreamError{Status: 500}, 502, apierr.CodeUnknown},
		{&e2ee.UpstreamError{}, 502, apierr.CodeUnknown},
		{&e2ee.UpstreamError{Op: "sync", Status: 502, Cause: e2ee.ErrAnswerTooLarge}, 502, apierr.CodeUnknown},
	} {
		w, c := controlWorld(t, e2ee.ModeProxied)
		c.err = fmt.Errorf("recover: %w", tt.err)
		_, err := w.do(callOf(Recover, http.MethodPost, "recover", `{"passphrase":"p"}`))
		e := shown(t, err, tt.status, tt.code)
		if e.Public() == "" || strings.Contains(e.Public(), "message was not sent") || !errors.Is(err, tt.err) {
			t.Errorf("%v: text %q", err, e.Public())
		}
	}
}

// User-interactive authentication goes to the client as the homeserver said it.
func TestControlAuthNeeded(t *testing.T) {
	t.Parallel()
	w, c := controlWorld(t, e2ee.ModeProxied)
	c.err = &e2ee.AuthNeededError{Body: json.RawMessage(`{"flows":[{"stages":["m.login.sso"]}],"params":{},"session":"s","error":"theirs"}`)}
	_, err := w.do(callOf(Reset, http.MethodPost, "reset", `{"confirm":true}`))
	e := shown(t, err, http.StatusUnauthorized, apierr.CodeForbidden)
	fields, err := json.Marshal(e.Fields)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(`{"flows":[{"stages":["m.login.sso"]}],"params":{},"session":"s"}`, string(fields)); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
	// Where it is done in a browser, a person is told where.
	c.err = &e2ee.AuthNeededError{
		Body: json.RawMessage(`{"flows":[{"stages":["m.oauth"]}],"params":{"m.oauth":{"url":"https://account.test/"}},"session":"s"}`),
		URL:  "https://account.test/",
	}
	_, err = w.do(callOf(Reset, http.MethodPost, "reset", `{"confirm":true}`))
	if e := shown(t, err, http.StatusUnauthorized, apierr.CodeForbidden); !strings.Contains(e.Public(), "https://account.test/") || e.Fields["params"] == nil {
		t.Errorf("%q, %v", e.Public(), e.Fields)
	}
}

// What needs keys of the proxy is refused for devices without them; what only tells is not, nor
// what decides about others, for a device with keys of its own.
func TestControlModes(t *testing.T) {
	t.Parallel()
	for _, mode := range []e2ee.Mode{e2ee.ModeForeign, e2ee.ModeNone, e2ee.ModeUnknown, e2ee.Mode(9)} {
		for name := range newControlHandlers(t) {
			if strings.HasPrefix(name, "control.admin.") || name == Devices { // see TestAdministratorsOnly and TestDevices
				continue
			}
			w, c := controlWorld(t, mode)
			_, err := w.do(callOf(name, http.MethodPost, "x", `{}`))
			if name == Status || name == Checkup {
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
				continue
			}
			if mode == e2ee.ModeForeign && slices.Contains([]string{User, Acknowledge, Withdraw, Override, Warnings, Dismiss}, name) {
				if apierr.HasCode(err, codeNotProxied) {
					t.Errorf("%s: %v", name, err)
				}
				continue
			}
			wantError(t, err, http.StatusConflict, codeNotProxied)
			if len(c.asked) > 0 {
				t.Errorf("%s: the engine was asked %q", name, c.asked)
			}
		}
	}
}

func newControlHandlers(t *testing.T) map[string]exchange.Handler {
	t.Helper()
	c := newAPI(exchange.Spools{}, newLimits(t))
	all := c.handlers()
	delete(all, None)
	return all
}

func newLimits(t *testing.T) *Limits {
	t.Helper()
	limits, err := NewLimits(nil)
	if err != nil {
		t.Fatal(err)
	}
	return limits
}

// Guessing is slow, for each user by itself.
func TestControlLimits(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		handler, body string
		burst         int
		interval      time.Duration
	}{
		{Recover, `{"passphrase":"guess"}`, recoverBurst, recoverInterval},
		{Reset, `{"confirm":true}`, resetBurst, resetInterval},
	} {
		synctest.Test(t, func(t *testing.T) {
			w, c := controlWorld(t, e2ee.ModeProxied)
			c.err = e2ee.ErrWrongRecoveryKey
			try := func(want int) (retry any) {
				t.Helper()
				_, err := w.do(callOf(tt.handler, http.MethodPost, "x", tt.body))
				code := codeWrongRecoveryKey
				if want == http.StatusTooManyRequests {
					code = apierr.CodeLimitExceeded
				}
				e := shown(t, err, want, code)
				if (e.Header.Get("Retry-After") != "") != (code == apierr.CodeLimitExceeded) {
					t.Errorf("headers %v", e.Header)
				}
				return e.Fields["retry_after_ms"]
			}
			for range tt.burst {
				try(http.StatusForbidden)
			}
			if retry := try(http.StatusTooManyRequests); retry != tt.interval.Milliseconds() {
				t.Errorf("retry after %v ms", retry)
			}
			time.Sleep(tt.interval - time.Second) // in the bubble's time
			try(http.StatusTooManyRequests)
			time.Sleep(time.Second)
			try(http.StatusForbidden)
			try(http.StatusTooManyRequests)
			w.who.UserID = bob
			try(http.StatusForbidden)
			w.who.UserID = alice
			time.Sleep(24 * time.Hour)
			for range tt.burst {
				try(http.StatusForbidden)
			}
			try(http.StatusTooManyRequests)
			if got, want := len(c.asked), 2*tt.burst+2; got != want {
				t.Errorf("the engine was asked %d times, want %d", got, want)
			}
		})
	}
}
