package e2ee_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// A client is given events again, and the database does not tell their keys, or what is known
// of their sender. The client is told that it went wrong, or is shown the text, or is shown it
// later; and never another text, or the text with another mark.
func TestDisturbedOpening(t *testing.T) {
	t.Parallel()
	everyDisturbance(t, 3, func(t *testing.T, tr *trouble) scene {
		st := shaken(t, tr)
		room, bob, _ := hear(t, st)
		want := make(map[string]string)
		for i := range 3 {
			said, text := bob.newMegolm(room), fmt.Sprint("text ", i)
			said.share(st.target())
			want[said.say(text)] = text
		}
		st.told()
		var past clientResponse // the client gets the events in another way
		call(t, st.hs, st.alice, http.MethodGet, "sync?timeout=0&since="+url.QueryEscape(st.since), nil, &past)
		st.since = past.NextBatch
		st.again() // so that all has to be read
		reader := &person{Session: st.alice, t: t, hs: st.hs}
		var batch []e2ee.Incoming
		for _, raw := range reader.encrypted(room) {
			batch = append(batch, e2ee.Incoming{RoomID: id.RoomID(room), Event: raw, Redeliver: true, Order: e2ee.OrderAfter})
		}
		open := func(ctx context.Context) error {
			if err := st.use(ctx); err != nil {
				return err
			}
			opened, err := st.dev.Open(ctx, batch)
			if err != nil {
				return err
			}
			clear(st.shown)
			for _, o := range opened {
				if o.Decrypted {
					st.show(o.Event)
				}
			}
			return nil
		}
		return scene{
			work: open,
			outcome: func() string {
				if err := st.use(t.Context()); err != nil {
					t.Fatal(err)
				}
				for event, text := range want {
					st.awaitText(event, text)
				}
				later := maps.Clone(st.shown)
				if err := open(t.Context()); err != nil {
					t.Fatal(err)
				}
				var texts []string
				for event := range want {
					content, same := fmt.Sprint(later[event]["content"]), fmt.Sprint(st.shown[event]["content"])
					if content != same {
						t.Errorf("the client was shown %s, and then %s", content, same)
					}
					texts = append(texts, content)
				}
				slices.Sort(texts)
				return strings.Join(texts, "\n")
			},
		}
	})
}

// An export that is disturbed is an error, and no file that others take for a whole one; the
// next one has all keys.
func TestDisturbedExport(t *testing.T) {
	t.Parallel()
	passphrase := secret.NewString("open sesame")
	disturbances(t, 2, func(t *testing.T, tr *trouble) scene {
		st := shaken(t, tr)
		for i := range 3 {
			st.send(st.hs.CreateRoom(true, st.alice.UserID), fmt.Sprint("text ", i))
		}
		var file bytes.Buffer
		export := func(ctx context.Context) error {
			file.Reset()
			if err := st.use(ctx); err != nil {
				return err
			}
			return st.dev.ExportCheaply(ctx, passphrase, &file)
		}
		keys := func() (n int, err error) {
			text, err := e2ee.OpenExport(passphrase, file.Bytes())
			if err != nil {
				return 0, err
			}
			var list []json.RawMessage
			err = json.Unmarshal(text, &list)
			return len(list), err
		}
		return scene{
			work: export,
			between: func(err error) {
				if n, bad := keys(); (bad == nil) != (err == nil) {
					t.Errorf("the export ends with %v, and its file has %d keys, %v", err, n, bad)
				}
			},
			outcome: func() string {
				n, err := keys()
				return fmt.Sprint(n, err)
			},
		}
	}, clientGone, readFails)
}

// The homeserver takes the keys of a new device and its answer is lost. Whatever it hands out
// of them later, what others begin with it is read: the private half of each key is kept.
func TestDisturbedPublishing(t *testing.T) {
	t.Parallel()
	disturbances(t, 0, func(t *testing.T, tr *trouble) scene {
		hs := liar.New(t)
		st := &stage{rig: tr.rig(t, hs), alice: hs.Login("alice", "ALICE"), shown: make(map[string]map[string]any)}
		bob, _ := confirmedPuppet(t, hs, "bob", "BOB")
		room := hs.CreateRoom(true, st.alice.UserID, bob.UserID)
		work := func(ctx context.Context) error {
			if err := st.use(ctx); err != nil {
				return err
			}
			st.dev.PublishWithin(0)
			err := st.dev.SyncNow(ctx)
			st.dev.Maintain(ctx)
			return err
		}
		return scene{
			work: work,
			outcome: func() string {
				await(t, "no keys are published", func() bool {
					if err := work(t.Context()); err != nil {
						t.Fatal(err)
					}
					return hs.OneTimeKeyCount(st.alice.UserID, st.alice.DeviceID) >= keysKept
				})
				ready(t, st.dev)
				for i := range 3 {
					said, text := bob.newMegolm(room), fmt.Sprint("over key ", i)
					said.share(st.target())
					st.awaitText(said.say(text), text)
				}
				uploads := hs.Requests(liar.Of(st.alice.UserID, liar.Is(http.MethodPost, "keys/upload")))
				return fmt.Sprint(len(uploads) > 0, calm(t, st.dev))
			},
		}
	}, answerLost)
}
