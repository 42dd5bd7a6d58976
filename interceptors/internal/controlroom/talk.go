package controlroom

import (
	"fmt"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/strictjson"
)

const (
	// maxTalks is in how many rooms a question can be open.
	maxTalks = 1 << 14
	// questionFor is how long an answer is waited for.
	questionFor = 10 * time.Minute
	// maxConfused is how often in a row it is said that something was not understood.
	maxConfused = 3
	// compareFor is the least time for which something is looked at that has to be compared.
	compareFor = 2 * time.Second
)

// talks are the conversations, by user. They are in memory only: after a restart nothing is
// asked, and what somebody then answers is not understood, and so not kept.
type talks struct {
	mu  sync.Mutex
	all *lru.Cache[id.UserID, *talk]
}

func newTalks() (*talks, error) {
	all, err := lru.New[id.UserID, *talk](maxTalks)
	if err != nil {
		return nil, fmt.Errorf("make the control rooms: %w", err)
	}
	return &talks{all: all}, nil
}

func (t *talks) of(user id.UserID) *talk {
	t.mu.Lock()
	defer t.mu.Unlock()
	mine, ok := t.all.Get(user)
	if !ok {
		mine = &talk{now: time.Now}
		t.all.Add(user, mine)
	}
	return mine
}

func (t *talks) forget(user id.UserID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all.Remove(user)
}

// talk is the conversation in one room. Its lock is held while a command is done: one after
// the other.
type talk struct {
	now func() time.Time

	mu       sync.Mutex
	asked    *question
	confused int
	heard    id.EventID // the message that was answered last
}

// question is something that was asked, and waits for the next message.
type question struct {
	until time.Time
	// secret reports whether the next message, whatever it is, is one: then kept stands in its
	// place. Otherwise only yes and no are answers.
	secret bool
	kept   string
	// then is what is done with the answer. said is the secret.
	then func(w *turn, said secret.String)
	no   func(w *turn)
	// flow is the verification that the question belongs to; empty: to none.
	flow string
	// seq is the number of the message that asks. Who answers yes or no must have been given it
	// before they wrote that, and before a verification's yes so long that they can have compared.
	seq int64
}

// isOpen reports whether a question waits for its answer, other than that of a verification.
func (t *talk) isOpen(except string) bool {
	return t.asked != nil && t.asked.flow != except && !t.now().After(t.asked.until)
}

// end ends the question of a verification.
func (t *talk) end(flow string) {
	if t.asked != nil && t.asked.flow == flow {
		t.asked = nil
	}
}

// said is what a person wrote.
type said struct {
	text string
	// file is the URI of a file that was sent, and name its name.
	file, name string
	// given is what the client had been sent of the room when the message came.
	given e2ee.ControlGiven
}

// readSaid returns what a message says. ok is false for what nobody said: other types, notices
// (of programs), and changes of messages.
func readSaid(eventType string, content strictjson.Object) (s said, ok bool) {
	if eventType != "m.room.message" || content.Object("m.relates_to").TextOrEmpty("rel_type") == "m.replace" {
		return said{}, false
	}
	s.text = strings.TrimSpace(withoutQuote(content.TextOrEmpty("body")))
	switch content.TextOrEmpty("msgtype") {
	case "m.text":
		return s, true
	case "m.file":
		s.file, s.name = content.TextOrEmpty("url"), s.text
		s.text = ""
		return s, true
	}
	return said{}, false
}

// withoutQuote removes what old clients put in front of a reply.
func withoutQuote(body string) string {
	if !strings.HasPrefix(body, "> ") {
		return body
	}
	for line := range strings.Lines(body) {
		if !strings.HasPrefix(line, ">") {
			break
		}
		body = body[len(line):]
	}
	return body
}

// understood is what a message means.
type understood struct {
	// kept is the content that is stored in its place.
	kept []byte
	// One of them.
	command *command
	answer  func(*turn)
	words   []string // behind the command
}

func keep(text string) []byte {
	return strictjson.Object{{Name: "msgtype", Value: strictjson.Quote("m.text")}, {Name: "body", Value: strictjson.Quote(text)}}.Encode()
}

// Texts that stand in place of what is not kept.
const (
	keptKey        = "(your recovery key; it is not kept)"
	keptPassword   = "(your password; it is not kept)"
	keptPassphrase = "(a passphrase; it is not kept)"
	keptOther      = "(not understood, and not kept)"
)

// understand finds out what a message means. The caller holds the lock.
func (t *talk) understand(s said) understood {
	q := t.asked
	if q != nil && t.now().After(q.until) {
		q, t.asked = nil, nil
	}
	word := strings.ToLower(s.text)
	stops := word == "cancel" || word == "stop"
	switch {
	case q != nil && stops:
		t.asked, t.confused = nil, 0
		return understood{kept: keep(s.text), answer: func(w *turn) {
			if !w.cancelVerification() {
				w.say("All right. Nothing was changed.")
			}
		}}
	case q != nil && q.secret && s.text != "":
		t.asked, t.confused = nil, 0
		with := secret.NewString(s.text)
		return understood{kept: keep(q.kept), answer: func(w *turn) { q.then(w, with) }}
	case q != nil && !q.secret && isAnswer(word) && !t.read(q, &s, word):
		return understood{kept: keep(s.text), answer: func(w *turn) {
			w.say("That came before you can have read the question, so it is not taken for the answer to it. Please look at it, and then write yes or no.")
		}}
	case q != nil && !q.secret && isYes(word):
		t.asked, t.confused = nil, 0
		return understood{kept: keep(s.text), answer: func(w *turn) { q.then(w, secret.String{}) }}
	case q != nil && !q.secret && isAnswer(word):
		t.asked, t.confused = nil, 0
		return understood{kept: keep(s.text), answer: func(w *turn) {
			if q.no != nil {
				q.no(w)
				return
			}
			w.say("All right. Nothing was changed.")
		}}
	case s.file != "":
		t.confused = 0
		return understood{kept: keep("(a file)"), answer: func(w *turn) { w.takeFile(s.file) }}
	case e2ee.WellFormedRecoveryKey(secret.NewString(s.text)):
		return understood{kept: keep(keptKey), answer: func(w *turn) {
			w.say("This looks like a recovery key. It was not used, and it is not kept. To use it, write recover, and then the key.")
		}}
	}
	words := strings.Fields(strings.TrimLeft(s.text, "!/"))
	if len(words) == 0 {
		return t.confusedBy()
	}
	cmd := commandOf(strings.ToLower(strings.TrimSuffix(words[0], ":")))
	if cmd == nil {
		return t.confusedBy()
	}
	t.asked, t.confused = nil, 0
	mark := s.text[:len(s.text)-len(strings.TrimLeft(s.text, "!/"))]
	return understood{kept: keep(cmd.kept(mark+words[0], words[1:])), command: cmd, words: words[1:]}
}

func isYes(word string) bool { return word == "yes" || word == "y" }

func isAnswer(word string) bool { return isYes(word) || word == "no" || word == "n" }

// read reports whether who wrote a message can have read the question before. A second yes, or one
// that was on its way, is not an answer to what was asked meanwhile.
func (t *talk) read(q *question, s *said, word string) bool {
	since, has := s.given.Has(q.seq)
	return has && (q.flow == "" || !isYes(word) || t.now().Sub(since) >= compareFor)
}

// confusedBy is for what was not understood. Programs that answer every message are not
// answered for ever.
func (t *talk) confusedBy() understood {
	t.confused++
	asked := t.asked
	return understood{kept: keep(keptOther), answer: func(w *turn) {
		switch {
		case t.confused > maxConfused:
		case asked != nil && !asked.secret:
			w.say("Please answer yes or no. To do neither, write cancel.")
		default:
			w.say("That was not understood, so it is not kept. Write help to see what you can write.")
		}
	}}
}

// ask says something, and asks for the next message.
func (w *turn) ask(text string, q question) { w.askBy(w.say(text), q) }

// askBy is ask for what was said already.
func (w *turn) askBy(event id.EventID, q question) {
	if view, err := w.room().View(w.ctx); err == nil {
		q.seq = view.Seq(event)
	}
	q.until = w.talk.now().Add(questionFor)
	w.talk.asked = &q
}
