package media

import (
	"errors"
	"fmt"
	"net/http"

	"e2ee-proxy/e2ee/attachment"
	"e2ee-proxy/interceptors/apierr"
)

// codeNotYetUploaded is the specification's code for files that are still to come.
const codeNotYetUploaded = "M_NOT_YET_UPLOADED"

// unusable returns the error of an answer of the homeserver that nothing can be done with.
func unusable(text string) *apierr.Error {
	return apierr.NewError(http.StatusBadGateway, apierr.CodeUnknown, text)
}

func damaged() error {
	return apierr.NewError(http.StatusBadGateway, apierr.CodeUnknown,
		"The homeserver returned something else than the file that was sent: it is damaged, or somebody exchanged it.").
		WithHint("Ask the sender to send it again.")
}

func unknown() error {
	return apierr.NotFound("Nothing is known of this file here, or it was forgotten.").
		WithHint("Load the message that shows it again, with the account that it was sent to.")
}

// Named returns the client's error for an event that cannot name its files.
func Named(err error) error {
	if errors.Is(err, attachment.ErrReserved) {
		return apierr.NewError(http.StatusConflict, codeNotYetUploaded, "The file of this message is not uploaded yet, so the message was not sent.").
			WithHint("Send the message once the upload has ended.").Because(err)
	}
	return err
}

// notKept returns the client's error for a file that cannot be stored.
func notKept(what string, err error) error {
	if errors.Is(err, attachment.ErrNamedTwice) {
		return unusable("The homeserver took the file and gave it the place of another one, so that nobody can tell them apart.").Because(err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
