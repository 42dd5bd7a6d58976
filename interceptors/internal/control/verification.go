package control

import (
	"context"
	"encoding/base64"
	"errors"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/qrcode"
)

// Verifications of users and devices. Every call but cancel and the picture answers with the
// verification as it is afterwards.

const (
	// maxWait bounds a long poll.
	maxWait = time.Minute
	// anyFlow stands for the verification that a code names, where one is scanned.
	anyFlow = "-"
	// readings is how many pictures are looked at at a time.
	readings = 1
)

// verificationCalls are those about verifications.
func (c *api) verificationCalls() []call {
	const one = "/verifications/{flowId}"
	return []call{
		{name: Verifications, method: http.MethodGet, path: "/verifications", do: listVerifications},
		{name: Verify, method: http.MethodPost, path: "/verifications", do: requestVerification},
		{name: Verification, method: http.MethodGet, path: one, do: getVerification},
		{name: VerificationQR, method: http.MethodGet, path: one + "/qr", do: showQR},
		{name: VerificationAccept, method: http.MethodPost, path: one + "/accept", do: step(exchange.Control.AcceptVerification)},
		{name: VerificationEmoji, method: http.MethodPost, path: one + "/emoji", do: step(exchange.Control.StartEmoji)},
		{name: VerificationConfirm, method: http.MethodPost, path: one + "/confirm", do: confirmEmoji},
		{name: VerificationScan, method: http.MethodPost, path: one + "/scan", do: c.scanQR},
		{name: VerificationScanned, method: http.MethodPost, path: one + "/scanned", do: confirmScanned},
		{name: VerificationCancel, method: http.MethodPost, path: one + "/cancel", do: cancelVerification},
		{name: VerifyUser, method: http.MethodPost, path: "/users/{userId}/verify", do: verifyUser},
	}
}

func listVerifications(a request) (any, error) {
	all, err := a.Verifications(a.ctx)
	if err != nil {
		return nil, err
	}
	return struct {
		Verifications []e2ee.Verification `json:"verifications"`
	}{notNil(all)}, nil
}

type verifyBody struct {
	UserID   *string `json:"user_id"`
	DeviceID *string `json:"device_id"`
}

func requestVerification(a request) (any, error) {
	var body verifyBody
	if err := readBody(a.Exchange, &body); err != nil {
		return nil, err
	}
	if body.UserID == nil {
		return nil, apierr.MissingParam("user_id is missing: say whom to verify. Your own user ID stands for your other devices.")
	}
	if !exchange.ValidUser(*body.UserID) {
		return nil, apierr.InvalidParam("user_id is not a user ID.").WithHint("One looks like @alice:example.org.")
	}
	var with e2ee.VerificationPartner
	if body.DeviceID != nil {
		with.DeviceID = id.DeviceID(*body.DeviceID)
	}
	return a.RequestVerification(a.ctx, id.UserID(*body.UserID), with)
}

// flowParam returns the verification that the path names.
func flowParam(x *exchange.Exchange) string { return x.Endpoint.Params["flowId"] }

// getVerification returns one verification. With ?wait=MILLISECONDS it waits for the next
// change, and with &state=STATE as well until the state is another.
func getVerification(a request) (any, error) {
	flow, query := flowParam(a.Exchange), a.Request.URL.Query()
	var wait time.Duration
	if given := query.Get("wait"); given != "" {
		ms, err := strconv.Atoi(given)
		if err != nil || ms < 0 {
			return nil, apierr.InvalidParam("wait is not a number of milliseconds.")
		}
		wait = min(time.Duration(ms)*time.Millisecond, maxWait)
	}
	ctx, cancel := context.WithTimeout(a.ctx, wait)
	defer cancel()
	known := query.Get("state")
	for {
		changed := a.WatchVerifications(ctx)
		now, err := a.Verification(a.ctx, flow)
		if err != nil || now.State.Over() || known != "" && string(now.State) != known {
			return now, err
		}
		select {
		case <-changed:
			if known == "" {
				return a.Verification(a.ctx, flow)
			}
		case <-ctx.Done():
			return now, nil
		}
	}
}

// step makes a call of a step that takes nothing.
func step(do func(exchange.Control, context.Context, string) (e2ee.Verification, error)) func(request) (any, error) {
	return func(a request) (any, error) {
		if err := readBody(a.Exchange, &emptyBody{}); err != nil {
			return nil, err
		}
		return asItIs(a)(do(a.Control, a.ctx, flowParam(a.Exchange)))
	}
}

// asItIs is for a step that is made again because a replica was killed. With it the verification may
// have ended, or the step may be behind it: then it is answered as it is.
func asItIs(a request) func(e2ee.Verification, error) (any, error) {
	return func(v e2ee.Verification, err error) (any, error) {
		if flow := flowParam(a.Exchange); a.Again && errors.Is(err, e2ee.ErrVerificationStep) && flow != anyFlow {
			return a.Verification(a.ctx, flow)
		}
		return v, err
	}
}

type matchBody struct {
	Match *bool `json:"match"`
}

func confirmEmoji(a request) (any, error) {
	var body matchBody
	if err := readBody(a.Exchange, &body); err != nil {
		return nil, err
	}
	if body.Match == nil {
		return nil, apierr.MissingParam("match is missing: say whether all emoji, or all numbers, are the same on both sides.")
	}
	return asItIs(a)(a.ConfirmEmoji(a.ctx, flowParam(a.Exchange), *body.Match))
}

type scannedBody struct {
	Yes *bool `json:"yes"`
}

func confirmScanned(a request) (any, error) {
	var body scannedBody
	if err := readBody(a.Exchange, &body); err != nil {
		return nil, err
	}
	if body.Yes == nil {
		return nil, apierr.MissingParam("yes is missing: say whether the other side says that it scanned the code.")
	}
	return asItIs(a)(a.ConfirmScanned(a.ctx, flowParam(a.Exchange), *body.Yes))
}

type scanBody struct {
	QR *string `json:"qr"`
}

// scanQR takes the content of a code, or a picture of it.
func (c *api) scanQR(a request) (any, error) {
	payload, err := c.payload(a)
	if err != nil {
		return nil, err
	}
	flow := flowParam(a.Exchange)
	if flow == anyFlow {
		flow = ""
	}
	return asItIs(a)(a.ScanQR(a.ctx, flow, payload))
}

func (c *api) payload(a request) ([]byte, error) {
	switch kind, _, _ := mime.ParseMediaType(a.Request.Header.Get("Content-Type")); kind {
	case "image/png", "image/jpeg":
		picture, err := a.ReadWhole()
		if err != nil {
			return nil, err
		}
		if err := c.mayRead(a); err != nil {
			return nil, err
		}
		select {
		case c.reading <- struct{}{}:
			defer func() { <-c.reading }()
		case <-a.ctx.Done():
			return nil, context.Cause(a.ctx)
		}
		content, err := qrcode.Read(picture)
		if err != nil {
			return nil, pictureError(err)
		}
		return content, nil
	}
	var body scanBody
	if err := readBody(a.Exchange, &body); err != nil {
		return nil, err
	}
	if body.QR == nil {
		return nil, apierr.MissingParam("qr is missing: give the content of the code in base64, or post a picture of it as image/png or image/jpeg.")
	}
	text := strings.TrimRight(strings.Join(strings.Fields(*body.QR), ""), "=") // pasted with blanks
	payload, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return nil, apierr.InvalidParam("qr is not base64. Nothing was changed.")
	}
	return payload, nil
}

// mayRead refuses a picture before anything is done with it: there must be a verification that
// goes on, and a user may have so many read.
func (c *api) mayRead(a request) error {
	var open bool
	if flow := flowParam(a.Exchange); flow != anyFlow {
		v, err := a.Verification(a.ctx, flow)
		if err != nil {
			return err
		}
		open = !v.State.Over()
	} else {
		all, err := a.Verifications(a.ctx)
		if err != nil {
			return err
		}
		open = slices.ContainsFunc(all, func(v e2ee.Verification) bool { return !v.State.Over() })
	}
	if !open {
		return e2ee.ErrNoVerification
	}
	return c.Picture(a.ctx, a.Identity.UserID)
}

func pictureError(err error) error {
	switch {
	case errors.Is(err, qrcode.ErrTooLarge):
		return apierr.InvalidParam("The picture is too large. Nothing was changed.").WithHint("Cut it down to the code.")
	case errors.Is(err, qrcode.ErrNoCode):
		return apierr.InvalidParam("There is no QR code in the picture that can be read. Nothing was changed.").WithHint("Take it again, straight and with the whole code on it.")
	}
	return apierr.InvalidParam("This is no picture in PNG or JPEG. Nothing was changed.")
}

// showQR answers with a picture of the code to show: SVG, or PNG with ?format=png.
func showQR(a request) (any, error) {
	now, err := a.Verification(a.ctx, flowParam(a.Exchange))
	if err != nil {
		return nil, err
	}
	if len(now.QR) == 0 {
		return nil, apierr.NotFound("This verification has no code to show now.").WithHint("Compare emoji, or scan the code of the other side.")
	}
	make, kind := qrcode.SVG, "image/svg+xml"
	switch a.Request.URL.Query().Get("format") {
	case "", "svg":
	case "png":
		make, kind = qrcode.PNG, "image/png"
	default:
		return nil, apierr.InvalidParam("format is neither svg nor png.")
	}
	picture, err := make(now.QR)
	if err != nil {
		return nil, err
	}
	h := a.Writer.Header()
	if h.Get("Access-Control-Allow-Origin") == "" {
		h.Set("Access-Control-Allow-Origin", "*")
	}
	h.Set("Content-Type", kind)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox")
	_, _ = a.Writer.Write(picture) // the client may be gone
	return answered{}, nil
}

func cancelVerification(a request) (any, error) {
	if err := readBody(a.Exchange, &emptyBody{}); err != nil {
		return nil, err
	}
	return done{}, a.CancelVerification(a.ctx, flowParam(a.Exchange))
}

// verifyUser verifies a user whose fingerprint was compared.
func verifyUser(a request) (any, error) {
	user, err := userParam(a.Exchange)
	if err != nil {
		return nil, err
	}
	var body acknowledgeBody
	if err := readBody(a.Exchange, &body); err != nil {
		return nil, err
	}
	if body.MasterKey != nil { // typed or pasted
		text := strings.Join(strings.Fields(*body.MasterKey), "")
		body.MasterKey = &text
	}
	key, err := body.masterKey()
	if err != nil {
		return nil, err
	}
	return done{}, a.VerifyByFingerprint(a.ctx, user, key.String())
}
