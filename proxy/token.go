package proxy

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"e2ee-proxy/interceptors"
)

const (
	maxQueryParams = 10_000
	maxTokenBytes  = 16 << 10
)

var (
	errQuery       = errors.New("the query cannot be parsed")
	errTooMany     = errors.New("the query has too many parameters")
	errTwoTokens   = errors.New("the request has two different access tokens")
	errEmptyToken  = errors.New("the access token is empty")
	errTokenForm   = errors.New("the access token has a form that no token has")
	errTwoAsserted = errors.New("the query names more than one user or device to act as")
)

// credentials are the token of a request, and the user and device that it claims to act as.
type credentials struct {
	token string
	// user and device are what an application service asserts with ?user_id= and
	// ?device_id= (requirement 23.2). For everybody else the homeserver ignores them.
	user, device string
}

// query is a parsed query string.
type query struct {
	// clean is the query without the access token, as it goes upstream.
	clean        string
	token        string
	hasToken     bool
	twoTokens    bool
	user, device string
	twoAsserted  bool
}

// readQuery walks the query once. Parameter order, encoding and duplicates stay as they
// are, except that the access token is taken out, and that ";" (a separator to some, data
// to others) is encoded.
func readQuery(raw string) (query, error) {
	q := query{clean: raw}
	if raw == "" {
		return q, nil
	}
	if strings.Count(raw, "&") >= maxQueryParams {
		return q, errTooMany
	}
	if strings.IndexByte(raw, ';') >= 0 {
		raw = strings.ReplaceAll(raw, ";", "%3B")
		q.clean = raw
	}
	var kept []string
	rest := raw
	for at, more := 0, true; more; {
		var pair string
		pair, rest, more = strings.Cut(rest, "&")
		key, value, _ := strings.Cut(pair, "=")
		key, err := unescape(key)
		if err != nil {
			return q, err
		}
		if !validEscapes(value) {
			return q, errQuery
		}
		if key == "access_token" {
			decoded, err := unescape(value)
			if err != nil {
				return q, err
			}
			if kept == nil {
				kept = append(make([]string, 0, 2), strings.TrimSuffix(raw[:at], "&"))
			}
			q.twoTokens = q.twoTokens || q.hasToken && q.token != decoded
			q.token, q.hasToken = decoded, true
		} else {
			if kept != nil {
				kept = append(kept, pair)
			}
			if err := q.assert(key, value); err != nil {
				return q, err
			}
		}
		at += len(pair) + 1
	}
	if kept != nil {
		q.clean = strings.Trim(strings.Join(kept, "&"), "&")
	}
	return q, nil
}

// withoutToken takes access tokens out of a query that is not judged otherwise: its other
// parameters stay as they are, whatever they are. Parameters end at "&" or ";", since some
// servers take both.
func withoutToken(raw string) string {
	if !strings.Contains(raw, "token") && !strings.Contains(raw, "%") { // most have none
		return raw
	}
	var kept strings.Builder
	for rest, before := raw, ""; ; {
		end := strings.IndexAny(rest, "&;")
		pair := rest
		if end >= 0 {
			pair = rest[:end]
		}
		name, _, _ := strings.Cut(pair, "=")
		if key, err := unescape(name); err != nil || key != "access_token" {
			if kept.Len() > 0 {
				kept.WriteString(before)
			}
			kept.WriteString(pair)
		}
		if end < 0 {
			return kept.String()
		}
		before, rest = rest[end:end+1], rest[end+1:]
	}
}

// assert records the user or device that the query asserts.
func (q *query) assert(key, encoded string) error {
	var to *string
	switch key {
	case "user_id":
		to = &q.user
	case "device_id", "org.matrix.msc3202.device_id":
		to = &q.device
	default:
		return nil
	}
	value, err := unescape(encoded)
	if err != nil {
		return err
	}
	q.twoAsserted = q.twoAsserted || *to != "" && *to != value
	*to = value
	return nil
}

func validEscapes(s string) bool {
	for i := strings.IndexByte(s, '%'); i >= 0 && i < len(s); i++ {
		if s[i] != '%' {
			continue
		}
		if i+2 >= len(s) || unhex(s[i+1]) < 0 || unhex(s[i+2]) < 0 {
			return false
		}
	}
	return true
}

func unescape(s string) (string, error) {
	if strings.IndexByte(s, '%') < 0 && strings.IndexByte(s, '+') < 0 {
		return s, nil
	}
	out, err := url.QueryUnescape(s)
	if err != nil {
		return "", errQuery
	}
	return out, nil
}

// takeToken returns the one access token of a request and sets the Authorization header to
// exactly it, so that the homeserver judges the token that was judged here. A request
// without a token, or with another scheme, is left as it is.
func takeToken(h http.Header, q query) (string, error) {
	if q.twoTokens {
		return "", errTwoTokens
	}
	values := h["Authorization"]
	if len(values) > 1 {
		return "", errTwoTokens
	}
	token, has := q.token, q.hasToken
	if len(values) == 1 {
		scheme, bearer, found := strings.Cut(values[0], " ")
		switch isBearer := strings.EqualFold(scheme, "bearer"); {
		case isBearer:
			bearer = strings.Trim(bearer, " ")
			if has && token != bearer {
				return "", errTwoTokens
			}
			token, has = bearer, true
		case has:
			return "", errTwoTokens
		case found:
			return "", nil
		}
	}
	if !has {
		return "", nil
	}
	if token == "" {
		return "", errEmptyToken
	}
	if !isToken(token) {
		return "", errTokenForm
	}
	if said, ok := bearerOf(h); !ok || said != token {
		h["Authorization"] = []string{"Bearer " + token}
	}
	return token, nil
}

// isToken reports whether s could be an access token: printable ASCII without spaces,
// quotes or backslashes, of a sane length.
func isToken(s string) bool {
	if len(s) > maxTokenBytes {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '\\' || c == ',' {
			return false
		}
	}
	return true
}

// bearerOf returns the token in a header after takeToken.
func bearerOf(h http.Header) (string, bool) {
	if values := h["Authorization"]; len(values) == 1 {
		return strings.CutPrefix(values[0], "Bearer ")
	}
	return "", false
}

// withoutMarks returns a query in which the tokens of syncs are the homeserver's, without the
// marks that an earlier version put behind them.
func withoutMarks(query string) string {
	if !strings.Contains(query, "e2ee-proxy") {
		return query
	}
	parts := strings.Split(query, "&")
	for i, part := range parts {
		name, value, _ := strings.Cut(part, "=")
		switch key, err := unescape(name); {
		case err != nil:
		case key == "since", key == "from", key == "to":
			if token, err := unescape(value); err == nil && interceptors.PlainToken(token) != token {
				parts[i] = name + "=" + url.QueryEscape(interceptors.PlainToken(token))
			}
		}
	}
	return strings.Join(parts, "&")
}
