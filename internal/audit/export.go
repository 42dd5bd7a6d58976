package audit

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Filter says which records are wanted; what is empty does not matter.
type Filter struct {
	From, To time.Time // To is not part of it
	User     string    // as the account, or as a recipient
	Room     string
}

// Wants reports whether a record is wanted. Of its recipients only those of the user are,
// unless the user is the account.
func (f *Filter) Wants(r *Record) bool {
	switch {
	case !f.From.IsZero() && r.At.Before(f.From), !f.To.IsZero() && !r.At.Before(f.To), f.Room != "" && r.Room != f.Room:
		return false
	case f.User == "" || r.Account == f.User:
		return true
	}
	for i := range r.Users {
		if r.Users[i].ID == f.User {
			return true
		}
	}
	return false
}

// Line is a decision about one device, or something that an administrator did, as it is
// exported.
type Line struct {
	Record           int64   `json:"record"`
	Time             string  `json:"time"`
	Kind             Kind    `json:"kind"`
	Account          string  `json:"account,omitempty"`
	Device           string  `json:"device,omitempty"`
	DeviceKey        string  `json:"device_key,omitempty"`
	Room             string  `json:"room,omitempty"`
	Session          string  `json:"session,omitempty"`
	Index            uint32  `json:"index,omitempty"`
	Secret           string  `json:"secret,omitempty"`
	Recipient        string  `json:"recipient,omitempty"`
	RecipientDevice  string  `json:"recipient_device,omitempty"`
	Ed25519          string  `json:"ed25519,omitempty"`
	Curve25519       string  `json:"curve25519,omitempty"`
	Outcome          Outcome `json:"outcome,omitempty"`
	Code             string  `json:"code,omitempty"`
	Rule             string  `json:"rule,omitempty"`
	Pin              string  `json:"pin,omitempty"`
	MasterKey        string  `json:"master_key,omitempty"`
	SelfSigningKey   string  `json:"self_signing_key,omitempty"`
	Policy           string  `json:"policy,omitempty"`
	Note             string  `json:"note,omitempty"`
	RecordRecipients int     `json:"record_recipients,omitempty"`
}

// Lines returns the lines of a record that are wanted.
func (f *Filter) Lines(seq int64, r *Record) []Line {
	base := Line{
		Record: seq, Time: r.At.UTC().Format(timeFormat), Kind: r.Kind, Account: r.Account, Device: r.Device, DeviceKey: r.Ed25519, Room: r.Room,
		Session: r.Session, Index: r.Index, Secret: r.Secret, Policy: r.Policy, Note: r.Note, RecordRecipients: r.Recipients(),
	}
	if len(r.Users) == 0 {
		return []Line{base}
	}
	var all []Line
	for i := range r.Users {
		u := &r.Users[i]
		if f.User != "" && r.Account != f.User && u.ID != f.User {
			continue
		}
		about := base
		about.Recipient, about.Pin, about.MasterKey, about.SelfSigningKey = u.ID, u.Pin, u.Master, u.SelfSigning
		if len(u.Devices) == 0 {
			all = append(all, about)
		}
		for _, d := range u.Devices {
			one := about
			one.RecipientDevice, one.Ed25519, one.Curve25519 = d.Device, d.Ed25519, d.Curve25519
			one.Outcome, one.Code, one.Rule = d.Outcome, d.Code, d.Rule
			all = append(all, one)
		}
	}
	return all
}

const timeFormat = "2006-01-02T15:04:05.000000Z"

// LineWriter writes lines in one format; Flush ends it.
type LineWriter interface {
	Write(line *Line) error
	Flush() error
}

// NewLineWriter returns a writer for a format: "jsonl" or "csv".
func NewLineWriter(format string, w io.Writer) (LineWriter, error) {
	switch format {
	case "jsonl":
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		return jsonLines{e}, nil
	case "csv":
		c := csvLines{csv.NewWriter(w)}
		return c, c.w.Write(csvHeader())
	default:
		return nil, fmt.Errorf("%q is not a format: jsonl or csv", format)
	}
}

type jsonLines struct{ e *json.Encoder }

func (j jsonLines) Write(line *Line) error { return j.e.Encode(line) }
func (j jsonLines) Flush() error           { return nil }

type csvLines struct{ w *csv.Writer }

func csvHeader() []string {
	return []string{
		"record", "time", "kind", "account", "device", "device_key", "room", "session", "index", "secret", "recipient", "recipient_device",
		"ed25519", "curve25519", "outcome", "code", "rule", "pin", "master_key", "self_signing_key", "policy", "note", "record_recipients",
	}
}

func (c csvLines) Write(l *Line) error {
	row := []string{
		strconv.FormatInt(l.Record, 10), l.Time, string(l.Kind), l.Account, l.Device, l.DeviceKey, l.Room, l.Session,
		strconv.FormatUint(uint64(l.Index), 10), l.Secret, l.Recipient, l.RecipientDevice, l.Ed25519, l.Curve25519,
		string(l.Outcome), l.Code, l.Rule, l.Pin, l.MasterKey, l.SelfSigningKey, l.Policy, l.Note, strconv.Itoa(l.RecordRecipients),
	}
	for i := range row {
		row[i] = cell(row[i])
	}
	return c.w.Write(row)
}

// cell puts an apostrophe before a text that a spreadsheet would compute: others choose the IDs
// of their devices.
func cell(text string) string {
	if text != "" && strings.ContainsRune("=+-\t\r", rune(text[0])) {
		return "'" + text
	}
	return text
}

func (c csvLines) Flush() error {
	c.w.Flush()
	return c.w.Error()
}
