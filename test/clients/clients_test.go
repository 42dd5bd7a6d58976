package clients

import "testing"

// client is a program that runs behind the proxy. What it cannot do is nil.
type client struct {
	// say says something in the room.
	say func(t *testing.T, text string)
	// hears waits until the client has shown a text.
	hears func(t *testing.T, text string)
	// older reads the room's history, in which the text must be.
	older func(t *testing.T, text string)
	// sends sends a picture from a file, and opens returns the picture that the peer sent under
	// a name.
	sends func(t *testing.T, file string)
	opens func(t *testing.T, name string) []byte
	// stop ends it in good order, where that makes a difference; it is killed otherwise.
	stop func(t *testing.T)
}

// program starts a client, which is invited to the room and joins it; again is set when it
// was started before.
type program func(t *testing.T, p *place, again bool) client

// programs are the clients of docs/clients.md.
var programs = map[string]program{
	"apprise":            apprise,
	"curl":               curl,
	"ement.el":           ement,
	"matrix-bot-sdk":     botSDK,
	"matrix-js-sdk":      jsSDK,
	"matrix-nio":         nio,
	"matrix-webhook":     matrixWebhook,
	"matterbridge":       matterbridge,
	"maubot":             maubot,
	"opsdroid":           opsdroid,
	"shoutrrr":           shoutrrr,
	"simplematrixbotlib": simplematrixbotlib,
}

// withoutToken are the clients that ask for files without their token. They are tried with
// media.links, without which nothing is given to them.
var withoutToken = map[string]bool{"ement.el": true, "matterbridge": true, "maubot": true, "opsdroid": true}

// Issue: "each unmodified, each through the proxy against a real homeserver with Element's
// crypto on the other side". A client that knows nothing of encryption logs in and joins a
// room; it shows what the peer says, and what it says the peer reads with no shield; so it
// does when it was ended and started again, and what was said before is in its history.
func TestClients(t *testing.T) {
	t.Parallel()
	plain := newWorld(t)
	linked := plain.linked(t)
	for name, start := range programs {
		w := plain
		if withoutToken[name] {
			w = linked
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w.try(t, start)
		})
	}
}

// On Synapse those are tried that speak to it in another way. Ement.el is tried in a room of
// version 11, as it takes those of version 12, Synapse's default, by no ID; its history is left
// out, for which it asks Synapse after a restart from no place, without the proxy too. maubot
// finds v1.11 among its versions, and sends its token with downloads.
func TestClientsOnSynapse(t *testing.T) {
	t.Parallel()
	plain := worldOn(t, shared.Synapse(t))
	linked := plain.linked(t)
	linked.version = "11"
	noHistory := func(t *testing.T, p *place, again bool) client {
		c := ement(t, p, again)
		c.older = nil
		return c
	}
	t.Run("ement.el", func(t *testing.T) { t.Parallel(); linked.try(t, noHistory) })
	t.Run("maubot", func(t *testing.T) { t.Parallel(); plain.try(t, maubot) })
}

// try talks with a client, ends it, and talks with it again.
func (w *world) try(t *testing.T, start program) {
	t.Helper()
	p := w.newPlace(t)
	if t.Run("first", func(t *testing.T) { p.talk(t, start, false) }) {
		t.Run("again", func(t *testing.T) { p.talk(t, start, true) })
	}
}

// talk starts the client and talks with it; it ends with the test.
func (p *place) talk(t *testing.T, start program, again bool) {
	const first, second = "at first", "after a restart"
	when := first
	if again {
		when = second
	}
	c := start(t, p, again)
	if c.hears != nil {
		p.peer.AwaitMember(p.room, p.account.UserID, "join")
		p.awaitSigned(t)
		p.peer.SendText(p.room, "Do you read me "+when+"?")
		c.hears(t, "Do you read me "+when+"?")
	}
	c.say(t, "Loud and clear "+when)
	p.wantRead(t, "Loud and clear "+when)
	p.picture(t, c, when)
	if c.older != nil && again {
		c.older(t, "Do you read me "+first+"?")
		c.older(t, "Loud and clear "+first)
	}
	if c.stop != nil {
		c.stop(t)
	}
}
