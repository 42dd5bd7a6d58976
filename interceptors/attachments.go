package interceptors

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/e2ee/attachment"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/engineerr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/interceptors/internal/media"
	"e2ee-proxy/internal/strictjson"
)

// Attachments. Files are uploaded to the homeserver by themselves, before the message that
// shows them, and the upload names no room. So the proxy encrypts all of them; where a message
// of a proxied device names one is decided when it is sent:
//   - For an encrypted room it names it encrypted: `file` instead of `url`.
//   - Where it is in clear (another room, state, a profile, account data) everybody must be able
//     to read it: a copy in clear is made, once, and named instead. So it is with pictures in
//     HTML, for which Matrix has no encrypted form, and with files that the client has
//     encrypted by itself before the proxy did.
//
// A message for an encrypted room that shows a file which nobody has encrypted (a forwarded
// one, a sticker of a pack) shows an encrypted copy, or is refused if there can be none. What
// counts is a content URI (mxc://) where the specification has a file in clear: url and
// info.thumbnail_url, in the event or in its m.new_content. Links to elsewhere are the
// client's own text.

// attachmentKinds returns the msgtypes that carry files (spec, m.room.message msgtypes).
func attachmentKinds() []string {
	return []string{"m.file", "m.image", "m.audio", "m.video", "m.location"}
}

// checkAttachment refuses an event for an encrypted room whose file is in clear.
func checkAttachment(eventType string, content strictjson.Object) error {
	if !fileInClear(eventType, content) && !fileInClear(eventType, content.Object("m.new_content")) {
		return nil
	}
	return engineerr.RefuseEncrypted(
		"This room is encrypted, and the file of this message is not: it was not uploaded through this proxy by this account, or was not used for a day after that, and it cannot be had to encrypt it now. So the message was not sent.",
		"Upload the file again and send the message then.")
}

func fileInClear(eventType string, content strictjson.Object) bool {
	for _, raw := range content.List("itemtypes") { // a gallery's (MSC4274)
		if item, err := strictjson.Parse(raw); err == nil && eventType == typeMessage && namesInClear(item) {
			return true
		}
	}
	switch {
	case eventType == typeSticker:
	case eventType == typeMessage && slices.Contains(attachmentKinds(), content.TextOrEmpty("msgtype")):
	default:
		return false
	}
	return namesInClear(content)
}

func namesInClear(content strictjson.Object) bool {
	// Some homeservers and clients take a content URI in any case.
	isContent := func(uri string) bool { return strings.HasPrefix(strings.ToLower(strings.TrimSpace(uri)), "mxc:") }
	return isContent(content.TextOrEmpty("url")) || isContent(content.Object("info").TextOrEmpty("thumbnail_url"))
}

// namedFiles returns those files that a body names and the device's account knows.
func namedFiles(x *Exchange, dev Device, raw []byte) (map[string]attachment.File, error) {
	if dev.Mode() != e2ee.ModeProxied || !attachment.MayNameURIs(raw) {
		return nil, nil
	}
	uris := attachment.Named(raw)
	if len(uris) == 0 {
		return nil, nil
	}
	known, err := dev.Files().Lookup(x.Request.Context(), uris)
	if err != nil {
		return nil, fmt.Errorf("look up files: %w", err)
	}
	return known, nil
}

// attachments turns the files that bodies name into what they may be there.
type attachments struct {
	media  *media.Media
	spools exchange.Spools
}

func (a *attachments) copy(x *Exchange, dev Device) attachment.Copy {
	return func(uri string, f attachment.File) (string, error) { return a.media.Copy(x, dev.Files(), uri, f) }
}

// hide returns the content of an event for an encrypted room with its files encrypted, and
// which those are. They are kept from now on.
func (a *attachments) hide(x *Exchange, dev Device, eventType string, raw []byte) (hidden []byte, used []string, err error) {
	known, err := namedFiles(x, dev, raw)
	if err != nil {
		return raw, nil, err
	}
	if known, err = a.wrapped(x, dev, eventType, raw, known); err != nil || len(known) == 0 {
		return raw, nil, err
	}
	hidden, used, err = attachment.Hide(raw, known, a.copy(x, dev))
	if err != nil {
		return nil, nil, media.Named(err)
	}
	if hidden, err = a.withThumbnails(x, dev, raw, hidden, known); err != nil {
		return nil, nil, err
	}
	if err := dev.Files().Use(x.Request.Context(), used); err != nil {
		return nil, nil, fmt.Errorf("keep files: %w", err)
	}
	return hidden, used, nil
}

// wrapped returns the files that an event names with encrypted copies of those that are in
// clear. One that cannot be had stays away, and the event is refused for it.
func (a *attachments) wrapped(x *Exchange, dev Device, eventType string, raw []byte, known map[string]attachment.File) (map[string]attachment.File, error) {
	content, err := exchange.ParseObject(raw)
	if err != nil {
		return nil, err
	}
	if !fileInClear(eventType, content) && !fileInClear(eventType, content.Object("m.new_content")) {
		return known, nil
	}
	all := make(map[string]attachment.File, len(known))
	maps.Copy(all, known)
	for _, uri := range attachment.InClearIn(raw) {
		if _, ok := all[uri]; ok {
			continue
		}
		f, found, err := a.media.Wrap(x, dev.Files(), uri)
		if err != nil {
			return nil, err
		}
		if !found {
			return known, nil // the event is refused for this one
		}
		all[uri] = f
	}
	return all, nil
}

// maxGallery is how many pictures of a gallery are given a thumbnail.
const maxGallery = 20

// withThumbnails gives the picture of a message, and those of a gallery (MSC4274), a thumbnail if
// their client made none (MSC4409): others could not have one of an encrypted picture. One that
// cannot be made is left out.
func (a *attachments) withThumbnails(x *Exchange, dev Device, raw, hidden []byte, known map[string]attachment.File) ([]byte, error) {
	content, err := exchange.ParseObject(raw)
	if err != nil {
		return nil, err
	}
	items := content.List("itemtypes")
	if len(items) == 0 {
		return a.withThumbnail(x, dev, content, "msgtype", hidden, known)
	}
	shown, err := exchange.ParseObject(hidden)
	if err != nil {
		return nil, err
	}
	list := shown.List("itemtypes")
	for i := range min(len(items), len(list), maxGallery) {
		item, err := strictjson.Parse(items[i])
		if err != nil {
			continue // it is no item, and stays as it is
		}
		if list[i], err = a.withThumbnail(x, dev, item, "itemtype", list[i], known); err != nil {
			return nil, err
		}
	}
	encoded, err := json.Marshal(list)
	if err != nil {
		return nil, fmt.Errorf("name thumbnails: %w", err)
	}
	return shown.Set("itemtypes", encoded).Encode(), nil
}

// withThumbnail does so for one picture. kind is the member that says that it is one.
func (a *attachments) withThumbnail(x *Exchange, dev Device, content strictjson.Object, kind string, hidden []byte, known map[string]attachment.File) ([]byte, error) {
	info := content.Object("info")
	uri := content.TextOrEmpty("url")
	f, ok := known[uri]
	if !ok || content.TextOrEmpty(kind) != "m.image" || info.Get("thumbnail_url") != nil || info.Get("thumbnail_file") != nil {
		return hidden, nil
	}
	small, err := a.media.ForSending(x, dev.Files(), uri, f)
	if err != nil || small.URL == "" {
		return hidden, err
	}
	return attachment.WithThumbnail(hidden, small)
}

// inClear returns a body that is in clear with copies in clear of its files.
func (a *attachments) inClear(x *Exchange, dev Device, raw []byte) ([]byte, error) {
	known, err := namedFiles(x, dev, raw)
	if err != nil || len(known) == 0 {
		return raw, err
	}
	out, err := attachment.InClear(raw, known, a.copy(x, dev))
	if err != nil {
		return nil, media.Named(err)
	}
	return out, nil
}

// ofBody handles requests whose whole body is in clear: profiles and account data.
func (a *attachments) ofBody(x *Exchange) error {
	dev, err := x.Device()
	if err != nil {
		return err
	}
	if dev.Mode() != e2ee.ModeProxied {
		return x.Upstream.Forward(x)
	}
	raw, whole, err := x.PeekBody()
	if err != nil {
		return err
	}
	if !whole {
		return a.ofLargeBody(x, dev)
	}
	if raw, err = a.inClear(x, dev, raw); err != nil {
		return err
	}
	x.PutBack(raw)
	return x.Upstream.Forward(x)
}

// ofLargeBody is ofBody for what is too large for memory.
func (a *attachments) ofLargeBody(x *Exchange, dev Device) (err error) {
	came := a.spools.New(x.Identity.UserID, 0)
	defer func() { err = errors.Join(err, came.Close()) }()
	if _, err := io.Copy(io.Discard, exchange.Spooling(x.Request.Body, came)); err != nil {
		if full := exchange.SpoolFailure(err); full != nil {
			return full
		}
		if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return apierr.TooLarge(tooLarge.Limit)
		}
		return fmt.Errorf("read the request body: %w", err)
	}
	uris, err := attachment.NamedIn(came.Reader())
	if err != nil {
		return tooMuch(err)
	}
	known, err := dev.Files().Lookup(x.Request.Context(), uris)
	if err != nil {
		return fmt.Errorf("look up files: %w", err)
	}
	body := came
	if len(known) > 0 {
		out := a.spools.New(x.Identity.UserID, 0)
		defer func() { err = errors.Join(err, out.Close()) }()
		if err := attachment.InClearTo(out, came, came.Size(), known, a.copy(x, dev)); err != nil {
			if full := exchange.SpoolFailure(err); full != nil {
				return full
			}
			return tooMuch(media.Named(err))
		}
		body = out
	}
	x.Request.Body, x.Request.ContentLength = io.NopCloser(body.Reader()), body.Size()
	return x.Upstream.Forward(x)
}

// tooMuch returns the client's error for a body that cannot be looked through.
func tooMuch(err error) error {
	if !errors.Is(err, attachment.ErrTooMuch) {
		return err
	}
	return apierr.NewError(http.StatusRequestEntityTooLarge, apierr.CodeTooLarge,
		"This is too large to look for encrypted files in it: it has a text of more than a megabyte, or names more than 32,768 files.").
		WithHint("Split it.").Because(err)
}
