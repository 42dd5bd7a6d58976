package controlroom

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/secret"
)

// Keys of messages as files. A file that is given out is made while it is downloaded, and is
// nowhere before: its address is good for some minutes, for the device that asked for it. One
// that is taken was uploaded by the client, and is at the homeserver only encrypted.

const (
	// exportFor is how long a file can be fetched, maxExports how many there are at once.
	exportFor  = 10 * time.Minute
	maxExports = 1024
	// minPassphrase is the shortest passphrase for a file, in bytes.
	minPassphrase = 8

	fileName = "room-keys.txt"
)

type export struct {
	user       id.UserID
	device     id.DeviceID
	passphrase secret.String
	until      time.Time
	// message is the one that tells how far the file is fetched.
	message id.EventID
}

// exports are the files that can be fetched.
type exports struct {
	mu  sync.Mutex
	all *lru.Cache[string, export]
}

func newExports() (*exports, error) {
	all, err := lru.New[string, export](maxExports)
	if err != nil {
		return nil, fmt.Errorf("make the files of control rooms: %w", err)
	}
	return &exports{all: all}, nil
}

func (w *turn) export() {
	w.ask("Choose a passphrase for the file, of 8 characters at least, and write it now. Whoever has the file and the passphrase can read your messages. It is not kept here. To leave it, write cancel.", question{secret: true, kept: keptPassphrase, then: func(w *turn, passphrase secret.String) {
		if len(passphrase.Reveal()) < minPassphrase {
			w.say("That passphrase is too short. To try again, write: export")
			return
		}
		if err := w.rooms.opt.Limits.Keys(w.ctx, w.user()); err != nil {
			w.failed(err)
			return
		}
		message := w.say("Here is the file. It can be fetched for 10 minutes, by this device.")
		name := rand.Text()
		w.post(fileContent("mxc://" + Server + "/" + name))
		w.rooms.exports.put(name, export{w.user(), w.call.Identity.DeviceID, passphrase, w.talk.now().Add(exportFor), message})
	}})
}

// Server is the server name of the files that are given out.
const Server = e2ee.NoticeServer

func fileContent(uri string) json.RawMessage {
	raw, err := json.Marshal(map[string]any{
		"msgtype": "m.file", "body": fileName, "filename": fileName, "url": uri, "info": map[string]any{"mimetype": "text/plain"},
	})
	if err != nil { // texts always marshal
		return e2ee.ControlText(fileName)
	}
	return raw
}

func (e *exports) put(name string, file export) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all.Add(name, file)
}

// get returns a file of a device; false when there is none, or none any more.
func (e *exports) get(name string, who exchange.Identity) (export, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	file, ok := e.all.Get(name)
	if !ok || file.user != who.UserID || file.device != who.DeviceID || who.UserID == "" {
		return export{}, false
	}
	if time.Now().After(file.until) {
		e.all.Remove(name)
		return export{}, false
	}
	return file, true
}

// Download gives out a file.
func (r *Rooms) Download(x *exchange.Exchange) error {
	if x.Identity.UserID == "" {
		return apierr.MissingToken()
	}
	file, ok := r.exports.get(x.Endpoint.Params["mediaId"], x.Identity)
	if !ok || strings.Contains(x.Endpoint.Pattern, "/thumbnail/") || x.Request.Method != http.MethodGet {
		return apierr.NotFound("There is no such file any more.").WithHint("Write export in the room of the encryption proxy.")
	}
	dev, err := x.Device()
	if err != nil {
		return err
	}
	h := x.Writer.Header()
	if h.Get("Access-Control-Allow-Origin") == "" {
		h.Set("Access-Control-Allow-Origin", "*")
	}
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Content-Disposition", `attachment; filename="`+fileName+`"`)
	h.Set("Cache-Control", "no-store")
	ctx := context.WithoutCancel(x.Request.Context()) // it is said also when the client hangs up
	out := &lateWriter{w: x.Writer, at: time.Now(), now: time.Now, tell: func(size string) {
		r.fetched(ctx, dev, &file, "The file is being fetched: "+size+" so far.")
	}}
	if err := dev.Control().ExportKeys(x.Request.Context(), file.passphrase, out); err != nil {
		r.fetched(ctx, dev, &file, "The file could not be fetched to its end. It can be fetched again within 10 minutes, by this device; or write: export")
		if out.done == 0 {
			h.Del("Content-Disposition")
			return clientError(err)
		}
		return fmt.Errorf("export keys into a control room: %w", err)
	}
	r.fetched(ctx, dev, &file, "The file was fetched, all "+sizeText(out.done)+" of it. Keep it where nobody else finds it.")
	return nil
}

// fetched changes the message that tells how far a file is fetched.
func (r *Rooms) fetched(ctx context.Context, dev exchange.Device, file *export, text string) {
	if file.message == "" {
		return
	}
	if err := dev.ControlRoom().Change(ctx, file.message, e2ee.ControlText(text)); err != nil {
		zerolog.Ctx(ctx).Warn().Err(err).Msg("An answer in the control room could not be given")
	}
}

// lateWriter sends status 200 with the first byte, and tells now and then how much was sent.
type lateWriter struct {
	w    http.ResponseWriter
	done int64
	at   time.Time
	now  func() time.Time
	tell func(size string)
}

func (l *lateWriter) Write(p []byte) (int, error) {
	if l.done == 0 {
		l.w.WriteHeader(http.StatusOK)
	}
	n, err := l.w.Write(p)
	l.done += int64(n)
	if now := l.now(); now.Sub(l.at) > lookEvery {
		l.at = now
		l.tell(sizeText(l.done))
	}
	return n, err
}

// sizeText writes a size for people.
func sizeText(n int64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%d kB", (n+1023)>>10)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/(1<<20))
}

func (w *turn) importKeys() {
	w.say("Send the file here, as a file. You are asked for its passphrase afterwards.")
}

// takeFile asks for the passphrase of a file that was sent.
func (w *turn) takeFile(uri string) {
	w.ask("Write the passphrase of this file. It is not kept here. To leave it, write cancel.", question{secret: true, kept: keptPassphrase, then: func(w *turn, passphrase secret.String) { w.takeKeys(uri, passphrase) }})
}

// takeKeys imports a file, and shows how far it is by changing one message.
func (w *turn) takeKeys(uri string, passphrase secret.String) {
	if err := w.rooms.opt.Limits.Keys(w.ctx, w.user()); err != nil {
		w.failed(err)
		return
	}
	event := w.say("Reading the file …")
	file, err := w.rooms.opt.Open(w.call.Exchange, uri)
	if err == nil && file == nil {
		w.change(event, "There is no such file here. Send it again.")
		return
	}
	if err != nil {
		w.change(event, reasonOf(err))
		return
	}
	p := &progress{total: 3 * file.Size, at: w.talk.now(), now: w.talk.now, tell: func(share string) { w.change(event, "Reading the file: "+share) }}
	got, err := w.control().ImportKeys(w.ctx, passphrase, func() io.Reader { return &counting{file.Open(), p} })
	if ended := file.Close(); err == nil {
		err = ended
	}
	if err != nil {
		w.change(event, reasonOf(err))
		return
	}
	text := fmt.Sprintf("Done. Of %d keys in the file %d were new here.", got.Total, got.Imported)
	if got.Refused > 0 {
		text += fmt.Sprintf(" %d were of no use.", got.Refused)
	}
	w.change(event, text+" Messages that they open have a grey mark: a file does not prove who sent them.")
}

// File is a file that a client has uploaded. Open returns a new reader of its clear text.
type File struct {
	Size  int64
	Open  func() io.Reader
	Close func() error
}

// progress counts what was read of a file, in several passes, and tells it now and then.
type progress struct {
	done, total int64
	at          time.Time
	now         func() time.Time
	tell        func(share string)
}

type counting struct {
	from io.Reader
	p    *progress
}

func (c *counting) Read(b []byte) (int, error) {
	n, err := c.from.Read(b)
	c.p.done += int64(n)
	if now := c.p.now(); now.Sub(c.p.at) > lookEvery {
		c.p.at = now
		c.p.tell(share(int(c.p.done), int(c.p.total)))
	}
	return n, err
}
