package console

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/text/language"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/qrcode"
)

// maxPicture is how much of a picture is kept in memory while it is read, in bytes.
const maxPicture = 8 << 20

// verificationsPath is the page of all verifications.
const verificationsPath = "/verifications"

type verificationsData struct {
	Flows []e2ee.Verification
	// User is who was chosen before.
	User string
	Own  bool
}

// waiting returns the verifications that wait for the person here.
func waiting(q *query) ([]e2ee.Verification, error) {
	all, err := q.device.Verifications(q.ctx)
	if err != nil {
		return nil, err
	}
	var out []e2ee.Verification
	for _, v := range all {
		if !v.State.Over() {
			out = append(out, v)
		}
	}
	return out, nil
}

func verifications(q *query) error {
	all, err := q.device.Verifications(q.ctx)
	if err != nil {
		return err
	}
	v := q.view("verifications", "Verify")
	v.Live, v.Data = true, verificationsData{Flows: all}
	return q.write(http.StatusOK, v)
}

// requestVerification asks somebody, or another device of the person's own.
func requestVerification(q *query) error {
	form := q.Request.PostForm
	user := q.session.UserID
	if form.Get("own") == "" {
		var err error
		if user, err = userOf(form.Get("user_id")); err != nil {
			return err
		}
	}
	flow, err := q.device.RequestVerification(q.ctx, user, e2ee.VerificationPartner{DeviceID: id.DeviceID(form.Get("device_id"))})
	if errors.Is(err, e2ee.ErrUnknownDevice) && form.Get("device_id") == "" {
		if user == q.session.UserID {
			return apierr.NotFound("You have no other device with encryption that could be asked.").WithHint("Sign in with one, such as Element, and try again.")
		}
		return apierr.NotFound(string(user) + " has no device with encryption that could be asked.")
	}
	if err != nil {
		return err
	}
	return q.toFlow(flow.ID)
}

func (q *query) toFlow(flow string) error {
	return q.redirect(verificationsPath+"/"+url.PathEscape(flow), "")
}

type flowData struct {
	e2ee.Verification
	Path    string
	Names   []emojiName
	Minutes int
}

// emojiName is an emoji with its name in the person's language, or else in English.
type emojiName struct{ Symbol, Name, Lang string }

func verification(q *query) error {
	flow, err := q.device.Verification(q.ctx, q.Endpoint.Params["flowId"])
	if err != nil {
		return err
	}
	data := flowData{Verification: flow, Path: verificationsPath + "/" + url.PathEscape(flow.ID)}
	data.Names = namesOf(flow.Emoji, q.Request.Header.Get("Accept-Language"))
	data.Minutes = int(flow.ExpiresAt.Sub(q.c.o.Now()) / time.Minute)
	v := q.view("verification", titleOf(&flow))
	v.Place, v.Live, v.Data = "verifications", !flow.State.Over(), data
	switch flow.State {
	case e2ee.VerificationStarted, e2ee.VerificationConfirmed:
		v.Again = 3
	case e2ee.VerificationRequested:
		if !flow.Incoming {
			v.Again = 3
		}
	case e2ee.VerificationReady, e2ee.VerificationCompare, e2ee.VerificationScanned, e2ee.VerificationDone, e2ee.VerificationCancelled:
	}
	return q.write(http.StatusOK, v)
}

func titleOf(flow *e2ee.Verification) string {
	if flow.Own {
		return "Verify your other device"
	}
	return "Verify " + string(flow.UserID)
}

// namesOf chooses the names of emoji by what a browser says of its person's languages.
func namesOf(all []e2ee.VerificationEmoji, accept string) []emojiName {
	wanted, _, err := language.ParseAcceptLanguage(accept)
	if err != nil {
		wanted = nil
	}
	out := make([]emojiName, len(all))
	for i, e := range all {
		out[i] = emojiName{e.Symbol, e.Name, "en"}
		for _, tag := range wanted {
			base, _ := tag.Base()
			if base.String() == "en" {
				break
			}
			region, _ := tag.Region()
			found := false
			for _, name := range []string{base.String() + "_" + region.String(), base.String()} {
				if text := e.Names[name]; text != "" && !found {
					out[i].Name, out[i].Lang, found = text, strings.ReplaceAll(name, "_", "-"), true
				}
			}
			if found {
				break
			}
		}
	}
	return out
}

// actOnVerification does what a button says. What is over, or went on meanwhile, says so.
func actOnVerification(q *query) error {
	flow, form := q.Endpoint.Params["flowId"], q.Request.PostForm
	var err error
	switch q.Endpoint.Params["action"] {
	case "accept":
		_, err = q.device.AcceptVerification(q.ctx, flow)
	case "emoji":
		_, err = q.device.StartEmoji(q.ctx, flow)
	case "match":
		_, err = q.device.ConfirmEmoji(q.ctx, flow, true)
	case "mismatch":
		_, err = q.device.ConfirmEmoji(q.ctx, flow, false)
	case "scanned":
		_, err = q.device.ConfirmScanned(q.ctx, flow, form.Get("yes") != "")
	case "code":
		_, err = q.device.ScanQR(q.ctx, flow, codeOf(form.Get("code")))
	case "cancel":
		err = q.device.CancelVerification(q.ctx, flow)
	default:
		err = apierr.NotImplemented("There is no such page.")
	}
	if err != nil && (!q.Again || !errors.Is(err, e2ee.ErrVerificationStep)) { // a replica that was killed may have done it
		return err
	}
	return q.toFlow(flow)
}

// codeOf reads the content of a QR code that was pasted as text: base64 of any kind, with blanks,
// or else as it is.
func codeOf(text string) []byte {
	plain := strings.TrimRight(strings.Join(strings.Fields(text), ""), "=")
	for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if raw, err := e.DecodeString(plain); err == nil {
			return raw
		}
	}
	return []byte(text)
}

// scanPicture reads the QR code in a picture of the other side's screen.
func scanPicture(q *query) error {
	flow := q.Endpoint.Params["flowId"]
	if q.Request.MultipartForm == nil || len(q.Request.MultipartForm.File["picture"]) == 0 {
		return apierr.InvalidParam("No picture was chosen.").WithHint("Go back and choose one: a photograph, or a picture of a screen.")
	}
	// Before anything is done with it.
	if v, err := q.device.Verification(q.ctx, flow); err != nil {
		return err
	} else if v.State.Over() {
		return e2ee.ErrNoVerification
	}
	if err := tooOften(q.c.o.Limits.Picture(q.ctx, q.session.UserID)); err != nil {
		return err
	}
	raw, err := pictureOf(q.Request.MultipartForm.File["picture"][0])
	if err != nil {
		return err
	}
	// Reading takes much memory for a moment: one at a time.
	select {
	case q.c.reading <- struct{}{}:
	case <-q.ctx.Done():
		return q.ctx.Err()
	}
	code, err := qrcode.Read(raw)
	<-q.c.reading
	if err != nil {
		return fmt.Errorf("%w: %w", e2ee.ErrNotACode, err)
	}
	if _, err := q.device.ScanQR(q.ctx, flow, code); err != nil {
		return err
	}
	return q.toFlow(flow)
}

func pictureOf(part *multipart.FileHeader) ([]byte, error) {
	f, err := part.Open()
	if err != nil {
		return nil, fmt.Errorf("open a picture: %w", err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	raw, err := io.ReadAll(io.LimitReader(f, maxPicture))
	if err != nil {
		return nil, fmt.Errorf("read a picture: %w", err)
	}
	return raw, nil
}

// qrPicture answers with the QR code that the other side scans.
func qrPicture(q *query) error {
	flow, err := q.device.Verification(q.ctx, q.Endpoint.Params["flowId"])
	if err == nil && len(flow.QR) == 0 {
		err = e2ee.ErrNoVerification
	}
	if err != nil {
		return err
	}
	picture, err := qrcode.SVG(flow.QR)
	if err != nil {
		return fmt.Errorf("make a QR code: %w", err)
	}
	q.Writer.Header().Set("Content-Type", "image/svg+xml")
	_, err = q.Writer.Write(picture)
	return err
}
