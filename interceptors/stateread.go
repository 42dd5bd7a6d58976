package interceptors

import (
	"errors"
	"fmt"
	"io"
	"net/http"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/jsonscan"
	"e2ee-proxy/internal/spool"
)

// GET rooms/{roomId}/state[/{eventType}[/{stateKey}]]. Some clients without encryption
// look here whether a room is encrypted, and refuse to send when it is. Those that the
// proxy encrypts for find no m.room.encryption, as in their syncs, unless the options say
// otherwise. Everything else, and every other client, passes unchanged.

// stateReader holds the handlers of reads of a room's state.
type stateReader struct {
	showEncryption bool
	spoolDir       string
	graph          *jsonscan.Node
}

const inStateEvent = 1 << 8 // a place beside those in an event

func newStateReader(o SyncOptions) *stateReader {
	graph := jsonscan.NewNode()
	stateGraph(graph.Down(jsonscan.Elem())).Report(inStateEvent, false)
	return &stateReader{showEncryption: o.ShowEncryptionState, spoolDir: o.SpoolDir, graph: graph}
}

// hides reports whether encryption is hidden from the one who asks.
func (s *stateReader) hides(x *Exchange) (bool, error) {
	if s.showEncryption {
		return false, nil
	}
	dev, err := device(x)
	if err != nil {
		return false, err
	}
	return dev.Mode() == e2ee.ModeProxied, nil
}

// get handles [StateGet]. The homeserver is asked all the same: who may not see the room
// is told so.
func (s *stateReader) get(x *Exchange) error {
	if x.Endpoint.Params["eventType"] != typeEncryption || x.Endpoint.Params["stateKey"] != "" {
		return x.Upstream.Forward(x)
	}
	hides, err := s.hides(x)
	if err != nil {
		return err
	}
	if !hides {
		return x.Upstream.Forward(x)
	}
	resp, err := x.Upstream.Do(x, Change{})
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return relayAndClose(x, resp)
	}
	if err := resp.Body.Close(); err != nil {
		return unread(fmt.Errorf("read a state event: %w", err))
	}
	return NotFound("There is no such state event.")
}

// list handles [StateList].
func (s *stateReader) list(x *Exchange) (err error) {
	hides, err := s.hides(x)
	if err != nil {
		return err
	}
	if !hides {
		return x.Upstream.Forward(x)
	}
	resp, err := x.Upstream.Do(x, Change{})
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return relayAndClose(x, resp)
	}
	defer resp.Body.Close() //nolint:errcheck // it was read to its end, or the request failed
	body, out := spool.New(spool.Options{Dir: s.spoolDir}), spool.New(spool.Options{Dir: s.spoolDir})
	defer func() { err = errors.Join(err, body.Close(), out.Close()) }()
	edits, err := s.hidden(&keepingReader{resp.Body, body})
	if err != nil {
		return syncFailure(err)
	}
	shown := body
	if len(edits) > 0 {
		shown = out
		edit := jsonscan.NewEditor(out, body.Reader())
		for _, e := range edits {
			if err := edit.Apply(e); err != nil {
				return fmt.Errorf("rewrite a room's state: %w", err)
			}
		}
		if err := edit.Close(); err != nil {
			return fmt.Errorf("rewrite a room's state: %w", err)
		}
	}
	setBody(resp, shown.Reader(), shown.Size())
	return x.Upstream.Relay(x, resp)
}

// hidden reads a list of state events and gives the edits that take encryption out of it.
func (s *stateReader) hidden(body io.Reader) ([]jsonscan.Edit, error) {
	var edits []jsonscan.Edit
	var head eventHead
	_, err := jsonscan.Scan(body, s.graph, jsonscan.Options{}, func(v *jsonscan.Value) error {
		if head.take(v) {
			return nil
		}
		if string(head.typ) == typeEncryption {
			edits = append(edits, jsonscan.Edit{
				Op: jsonscan.Delete, Start: v.Start, End: v.End, Sep: v.Sep, Before: v.Index > len(edits),
			})
		}
		head.reset()
		return nil
	})
	return edits, err //nolint:wrapcheck // syncFailure tells its kinds apart
}
