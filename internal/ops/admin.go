package ops

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"net/url"
	"strings"

	"github.com/go-chi/chi/v5"

	"e2ee-proxy/internal/secret"
)

// Admin are the calls of administrators, which need a token. Without one they do not exist.
type Admin struct {
	// Token returns the token in force.
	Token func() secret.String
	Calls []AdminCall
	// Fault turns an error of a call into an answer, and says whether it knows it. The text of an
	// error that it does not know is given to Failed and to nobody else.
	Fault  func(error) (status int, errCode, text string, known bool)
	Failed func(call string, err error)
}

// AdminCall is one call. Path may have {userId}.
type AdminCall struct {
	Method, Path string
	// Do is given what the path and the query say; each may be empty.
	Do func(ctx context.Context, user, from, limit string) (any, error)
}

// route registers the calls below /admin.
func (a *Admin) route(to chi.Router) {
	to.Route("/admin", func(r chi.Router) {
		r.Use(a.withToken)
		r.NotFound(notFound)
		r.MethodNotAllowed(func(w http.ResponseWriter, _ *http.Request) {
			writeError(w, http.StatusMethodNotAllowed, errUnrecognized, "This path is not for this method.")
		})
		for _, call := range a.Calls {
			r.Method(call.Method, call.Path, a.answer(call))
		}
	})
}

// withToken refuses requests without the token, whatever they ask for.
func (a *Admin) withToken(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		want := a.Token()
		if want.IsZero() {
			notFound(w, r)
			return
		}
		said, is := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		// Hashes have one length, so that the time tells nothing of the token's.
		got, wanted := sha256.Sum256([]byte(said)), sha256.Sum256([]byte(want.Reveal()))
		if !is || len(r.Header.Values("Authorization")) != 1 || subtle.ConstantTimeCompare(got[:], wanted[:]) != 1 {
			writeError(w, http.StatusForbidden, errForbidden, "This is for administrators only: it needs ops_token as Authorization: Bearer TOKEN.")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (a *Admin) answer(call AdminCall) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		user, err := url.PathUnescape(chi.URLParam(r, "userId"))
		if err != nil {
			notFound(w, r)
			return
		}
		q := r.URL.Query()
		out, err := call.Do(r.Context(), user, q.Get("from"), q.Get("limit"))
		if err == nil {
			writeJSON(w, http.StatusOK, out)
			return
		}
		status, code, text, known := a.Fault(err)
		if !known {
			a.Failed(call.Path, err)
			status, code, text = http.StatusInternalServerError, "M_UNKNOWN", "The proxy failed; its log says why."
		}
		writeError(w, status, code, text)
	}
}
