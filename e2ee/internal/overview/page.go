package overview

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strconv"
)

// The size of a page.
const (
	defaultLimit = 100
	maxLimit     = 500
	maxCursor    = 2048
)

// ErrPage means that a limit or the beginning of a page makes no sense.
var ErrPage = errors.New("limit is not 1 to 500, or from is not the next of an earlier page")

// Page says which page is wanted. It is made by [ParsePage].
type Page struct {
	Limit         int
	row           int64
	first, second string
}

// cursor is where the next page begins: after this.
type cursor struct {
	Row    int64  `json:"r,omitempty"`
	First  string `json:"a,omitempty"`
	Second string `json:"b,omitempty"`
}

// String returns what ParsePage reads.
func (c cursor) String() string {
	raw, err := json.Marshal(c)
	if err != nil { // a number and texts: it cannot fail
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

// ParsePage reads the parameters of a page; each may be empty.
func ParsePage(from, limit string) (Page, error) {
	p := Page{Limit: defaultLimit}
	if limit != "" {
		n, err := strconv.Atoi(limit)
		if err != nil || n < 1 || n > maxLimit {
			return Page{}, ErrPage
		}
		p.Limit = n
	}
	if from == "" {
		return p, nil
	}
	var c cursor
	raw, err := base64.RawURLEncoding.DecodeString(from)
	if err != nil || len(raw) > maxCursor || json.Unmarshal(raw, &c) != nil || c.Row < 0 {
		return Page{}, ErrPage
	}
	p.row, p.first, p.second = c.Row, c.First, c.Second
	return p, nil
}
