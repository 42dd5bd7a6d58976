package native

import (
	"errors"
	"fmt"
	"strings"

	"e2ee-proxy/internal/strictjson"
)

// byDevice is a body with a member that has an entry for each device of each user.
type byDevice struct {
	raw   []byte
	value strictjson.Place // the member
	users []userEntries
}

// userEntries are the entries of one user. Their places are in the body.
type userEntries struct {
	strictjson.Place
	devices []strictjson.Place
}

// maxEntries is how many entries of devices a body may have.
const maxEntries = 50_000

var errTooMany = errors.New("more devices than anybody has")

// errSpelling means that a name is like one that is read, in other cases of its letters.
// Software in Go takes both for the same (encoding/json), and others do not.
var errSpelling = errors.New("a name in other cases of its letters")

// isOther reports whether a name is another spelling of one that is read.
func isOther(name, read string) bool { return name != read && strings.EqualFold(name, read) }

// readByDevice finds the entries in a body. found is false where the body has no such member.
// Every error means that the body has not the form that it must have.
func readByDevice(raw []byte, member string) (b *byDevice, found bool, err error) {
	top, err := strictjson.Places(raw)
	if err != nil {
		return nil, false, err
	}
	b = &byDevice{raw: raw}
	for _, p := range top {
		if isOther(p.Name, member) {
			return nil, false, errSpelling
		}
		if p.Name == member && string(raw[p.Value:p.End]) != "null" {
			b.value, found = p, true
		}
	}
	if !found {
		return nil, false, nil
	}
	users, err := placesIn(raw, b.value)
	if err != nil {
		return nil, true, err
	}
	entries := 0
	for _, user := range users {
		devices, err := placesIn(raw, user)
		if err != nil {
			return nil, true, err
		}
		if entries += len(devices); entries > maxEntries {
			return nil, true, errTooMany
		}
		b.users = append(b.users, userEntries{user, devices})
	}
	return b, true, nil
}

// placesIn returns the members of an object in a body.
func placesIn(raw []byte, of strictjson.Place) ([]strictjson.Place, error) {
	inner, err := strictjson.Places(raw[of.Value:of.End])
	if err != nil {
		return nil, fmt.Errorf("an object inside: %w", err)
	}
	for i := range inner {
		inner[i].From += of.Value
		inner[i].Value += of.Value
		inner[i].End += of.Value
	}
	return inner, nil
}

// without returns the body in parts, without the entries for which drop is true, and how many
// are left. Users without an entry stay if they are to, or had none.
func (b *byDevice) without(drop func(user, device string) bool, keepUsers bool) (parts [][]byte, left int) {
	var cut cutter
	cut.raw = b.raw
	inner := cutList{&cut, b.value.Value}
	for i := range b.users {
		user := &b.users[i]
		var kept []strictjson.Place
		for _, device := range user.devices {
			if !drop(user.Name, device.Name) {
				kept = append(kept, device)
			}
		}
		left += len(kept)
		switch {
		case len(kept) == len(user.devices):
			inner.keep(user.From, user.End)
		case len(kept) > 0 || keepUsers:
			inner.keep(user.From, user.Value)
			devices := cutList{&cut, user.Value}
			for _, device := range kept {
				devices.keep(device.From, device.End)
			}
			devices.end(user.End)
		}
	}
	inner.end(b.value.End)
	return cut.done(), left
}

// cutter collects the parts of a body that are kept.
type cutter struct {
	raw   []byte
	parts [][]byte
	from  int // the first byte that is neither kept nor dropped yet
}

func (c *cutter) keepTo(end int) {
	if end > c.from {
		c.parts = append(c.parts, c.raw[c.from:end])
	}
	c.from = end
}

func (c *cutter) done() [][]byte {
	c.keepTo(len(c.raw))
	return c.parts
}

// cutList is an object of which only some members are kept: where its bracket is, or was
// written, and whether something was kept.
type cutList struct {
	cut  *cutter
	open int
}

// keep keeps what is between two places of the object, as its next member.
func (l *cutList) keep(from, end int) {
	if l.open >= 0 {
		l.cut.keepTo(l.open + 1)
		l.open = -1
	} else {
		l.cut.parts = append(l.cut.parts, []byte{','})
	}
	l.cut.from = from
	l.cut.keepTo(end)
}

// end closes the object.
func (l *cutList) end(end int) {
	if l.open >= 0 {
		l.cut.keepTo(l.open + 1)
	}
	l.cut.from = end - 1
	l.cut.keepTo(end) // the bracket
}
