package native

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/engineerr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/budget"
	"e2ee-proxy/internal/strictjson"
)

const (
	// maxAnswer is the largest answer about devices that is taken in, in bytes. One of 12,000
	// devices has some 25 MiB.
	maxAnswer = 64 << 20
	// answerCost is how often an answer is in memory at most: as it came, what is kept of it,
	// and where its entries are.
	answerCost = 3
	// answersMemory is what all answers may take at the same time, answersPerUser those of one
	// user, and answerStep how much is taken at once.
	answersMemory  = 384 << 20
	answersPerUser = answerCost * (maxAnswer + answerStep)
	answerStep     = 64 << 10
)

// Query handles POST keys/query: the answer is learned from and passed on without the devices
// that the client is not to be shown.
func (h *Handlers) Query(x *exchange.Exchange) error {
	c, err := client(x)
	if err != nil {
		return err
	}
	if c == nil {
		return x.Upstream.Forward(x)
	}
	raw, err := x.ReadWhole()
	if err != nil {
		return err
	}
	x.PutBack(raw)
	whole := askedWhole(raw)
	query := c.BeginQuery()
	defer query.End()
	resp, err := x.Upstream.Do(x, exchange.Change{})
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // it was read to its end, or the request failed
	held := heldAnswer{from: h.answers, owner: string(x.Identity.UserID)}
	defer held.release()
	body, err := held.read(resp)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return refused(x, resp, body)
	}
	devices, answer, err := readAnswer(body)
	if err != nil {
		return apierr.NewError(http.StatusBadGateway, apierr.CodeUnknown, "The homeserver's answer about devices cannot be read, so it was not passed on.").Because(err)
	}
	hidden, err := query.Answered(x.Request.Context(), answer, whole)
	if err != nil {
		return engineerr.For(err)
	}
	exchange.SetBody(resp, bytes.NewReader(body), int64(len(body)))
	if len(hidden) > 0 {
		drop := sets(hidden) // one user may have all the devices that an answer has room for
		parts, _ := devices.without(func(user, device string) bool { return drop[id.UserID(user)][id.DeviceID(device)] }, true)
		setParts(resp, parts)
	}
	return x.Upstream.Relay(x, resp)
}

// refused passes on that the homeserver does not answer. Clients take other codes for answers
// too, or follow them to where nobody filters, and some look at no code at all: so it has to be
// an error, with nothing in it that they could take for devices.
func refused(x *exchange.Exchange, resp *http.Response, body []byte) error {
	err := errNoError
	if resp.StatusCode >= http.StatusBadRequest {
		err = checkError(body)
	}
	if err != nil {
		return apierr.NewError(http.StatusBadGateway, apierr.CodeUnknown, "The homeserver's answer about devices is neither an answer nor an error, so it was not passed on.").Because(err)
	}
	exchange.SetBody(resp, bytes.NewReader(body), int64(len(body)))
	return x.Upstream.Relay(x, resp)
}

var (
	errNoError = errors.New("its status is no error")
	errDevices = errors.New("there are devices in an error")
)

// checkError returns why an error's body must not be passed on. What begins with no brace is no
// object to anybody.
func checkError(body []byte) error {
	if !bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n\ufeff"), []byte("{")) {
		return nil
	}
	top, err := strictjson.Parse(body)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(top, func(m strictjson.Member) bool { return strings.EqualFold(m.Name, "device_keys") }) {
		return errDevices
	}
	return nil
}

// sets returns lists of devices as sets.
func sets(lists map[id.UserID][]id.DeviceID) map[id.UserID]map[id.DeviceID]bool {
	all := make(map[id.UserID]map[id.DeviceID]bool, len(lists))
	for user, devices := range lists {
		of := make(map[id.DeviceID]bool, len(devices))
		for _, device := range devices {
			of[device] = true
		}
		all[user] = of
	}
	return all
}

func setParts(resp *http.Response, parts [][]byte) {
	readers, size := make([]io.Reader, len(parts)), 0
	for i, part := range parts {
		readers[i] = bytes.NewReader(part)
		size += len(part)
	}
	exchange.SetBody(resp, io.MultiReader(readers...), int64(size))
}

// askedWhole returns whether all devices of a user were asked for. Of a request that can be
// read in more than one way, nobody knows.
func askedWhole(raw []byte) func(id.UserID) bool {
	asked := make(map[id.UserID]bool)
	request, err := strictjson.Parse(raw)
	if err == nil && !slices.ContainsFunc(request, func(m strictjson.Member) bool { return isOther(m.Name, "device_keys") }) {
		for _, m := range request.Object("device_keys") {
			var devices []string
			asked[id.UserID(m.Name)] = json.Unmarshal(m.Value, &devices) == nil && devices != nil && len(devices) == 0
		}
	}
	return func(user id.UserID) bool { return asked[user] }
}

// readAnswer reads an answer strictly.
func readAnswer(body []byte) (*byDevice, *e2ee.KeyAnswer, error) {
	devices, found, err := readByDevice(body, "device_keys")
	if err != nil {
		return nil, nil, err
	}
	top, err := strictjson.Parse(body)
	if err != nil {
		return nil, nil, err
	}
	answer := &e2ee.KeyAnswer{DeviceKeys: make(map[id.UserID]map[id.DeviceID]json.RawMessage)}
	for name, into := range map[string]*map[id.UserID]json.RawMessage{
		"master_keys": &answer.MasterKeys, "self_signing_keys": &answer.SelfSigningKeys, "user_signing_keys": &answer.UserSigningKeys,
	} {
		if *into, err = byName[id.UserID](top, name); err != nil {
			return nil, nil, err
		}
	}
	if answer.Failures, err = byName[string](top, "failures"); err != nil {
		return nil, nil, err
	}
	if !found {
		return &byDevice{}, answer, nil
	}
	for i := range devices.users {
		user := &devices.users[i]
		of := make(map[id.DeviceID]json.RawMessage, len(user.devices))
		for _, p := range user.devices {
			of[id.DeviceID(p.Name)] = body[p.Value:p.End:p.End]
		}
		answer.DeviceKeys[id.UserID(user.Name)] = of
	}
	return devices, answer, nil
}

// byName returns the members of a member, which may be missing or null.
func byName[K ~string](top strictjson.Object, name string) (map[K]json.RawMessage, error) {
	if slices.ContainsFunc(top, func(m strictjson.Member) bool { return isOther(m.Name, name) }) {
		return nil, errSpelling
	}
	raw := top.Get(name)
	if raw == nil || string(raw) == "null" {
		return nil, nil
	}
	inner, err := strictjson.Parse(raw)
	if err != nil {
		return nil, err
	}
	out := make(map[K]json.RawMessage, len(inner))
	for _, m := range inner {
		out[K(m.Name)] = m.Value
	}
	return out, nil
}

// heldAnswer counts the memory of one answer.
type heldAnswer struct {
	from  *budget.Budget
	owner string
	taken int64
}

// read reads an answer to its end. Its errors are for the client.
func (h *heldAnswer) read(resp *http.Response) ([]byte, error) {
	var in bytes.Buffer
	if n := resp.ContentLength; n > 0 && n <= maxAnswer {
		if err := h.take(n); err != nil {
			return nil, err
		}
		in.Grow(int(n) + bytes.MinRead)
	}
	for {
		n, err := in.ReadFrom(io.LimitReader(resp.Body, answerStep))
		if err != nil {
			return nil, apierr.Unread(fmt.Errorf("read an answer about devices: %w", err))
		}
		if n == 0 {
			return in.Bytes(), nil
		}
		if int64(in.Len()) > maxAnswer {
			return nil, apierr.NewError(http.StatusBadGateway, apierr.CodeTooLarge, "The homeserver's answer about devices is larger than the proxy takes in.").
				WithHint("Ask about fewer users at a time.")
		}
		if err := h.take(int64(in.Len())); err != nil {
			return nil, err
		}
	}
}

// take takes the memory for an answer of a size.
func (h *heldAnswer) take(size int64) error {
	more := answerCost*size - h.taken
	if more <= 0 {
		return nil
	}
	if err := h.from.Take(h.owner, more); err != nil {
		if errors.Is(err, budget.ErrNever) {
			return fmt.Errorf("hold an answer about devices: %w", err)
		}
		busy := apierr.LimitExceeded(5 * time.Second)
		busy.Text, busy.Hint = "The proxy is taking in too much of the homeserver at the moment.", "Try again in a moment."
		return busy.Because(fmt.Errorf("hold an answer about devices: %w", err))
	}
	h.taken += more
	return nil
}

func (h *heldAnswer) release() { h.from.Release(h.owner, h.taken) }
