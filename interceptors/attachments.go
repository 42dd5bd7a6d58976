package interceptors

import (
	"slices"
	"strings"

	"e2ee-proxy/interceptors/internal/engineerr"
	"e2ee-proxy/internal/strictjson"
)

// Attachments. Files are uploaded to the homeserver by themselves, before the message that
// shows them, and the upload names no room. A client without encryption uploads them in
// clear, so that a message in an encrypted room would only hide the name of a file that
// everybody with access to the homeserver's media can read. Until the proxy encrypts files,
// such a message is refused. It passes if the client has encrypted the file (`file`).
//
// What counts is a content URI (mxc://) where the specification has a file in clear: url
// and info.thumbnail_url, in the event or in its m.new_content. Links to elsewhere are the
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
		"This room is encrypted, and the file of this message was uploaded unencrypted, where the homeserver can read it, so the message was not sent: this proxy does not encrypt files yet.",
		"Send text only, or send the file with a client that does its own encryption.")
}

func fileInClear(eventType string, content strictjson.Object) bool {
	switch {
	case eventType == typeSticker:
	case eventType == typeMessage && slices.Contains(attachmentKinds(), content.TextOrEmpty("msgtype")):
	default:
		return false
	}
	// Some homeservers and clients take a content URI in any case.
	isContent := func(uri string) bool { return strings.HasPrefix(strings.ToLower(strings.TrimSpace(uri)), "mxc:") }
	return isContent(content.TextOrEmpty("url")) || isContent(content.Object("info").TextOrEmpty("thumbnail_url"))
}
