package config

import "time"

// Console configures the pages for people.
type Console struct {
	// Whether there is the console, under /_e2ee_proxy/console.
	Enabled bool `yaml:"enabled"`

	// Address and port of the console alone. It is then not on the address for clients. tls holds for
	// it too. Empty: it is on the address for clients.
	Listen string `yaml:"listen" kind:"HOST:PORT"`

	// URL under which browsers reach the console, if it is not public_url: without a path.
	URL URL `yaml:"url"`
}

// Clients configures what clients see.
type Clients struct {
	// Whether clients see that a room is encrypted. Some that know nothing of encryption
	// refuse to send when they do.
	ShowEncryptionState bool `yaml:"show_encryption_state"`

	// Whether the notices are left out by which clients show warnings in the rooms
	// concerned. The warnings are still in status and in every sync.
	HideWarnings bool `yaml:"hide_warnings"`

	// What a client is shown of an event that cannot be read yet. hold: nothing for up to 5
	// minutes while its key may still come, then a message that says that there is one; in a
	// first sync and in older history that message at once. placeholder: at once everywhere. event: the m.room.encrypted event as it came, which
	// some bots answer with a message of their own each time. Whatever it is, the clear event
	// follows when its key comes.
	Undecryptable Undecryptable `yaml:"undecryptable"`

	// How long the first sync of a client, and a read of history, may wait for keys that the account's
	// key backup has. What has not come by then follows in a later sync. 0s waits for none.
	KeyWait time.Duration `yaml:"key_wait"`
}

// Media configures what happens to files and pictures.
type Media struct {
	// What becomes of requests for a preview of a web page. Clients make them for links in
	// messages, so that they tell the homeserver what an encrypted message linked to. empty:
	// the proxy answers that there is no preview, and asks nobody. pass: they are sent on.
	// Those of devices that have keys of their own are sent on either way.
	URLPreviews URLPreviews `yaml:"url_previews"`

	// Whether clients are shown encrypted files by links: URIs with which whoever has one can download
	// the file through the proxy without an access token, for one to two days, until the device that
	// was shown it is logged out. For clients that send no token with downloads (docs/files.md); treat
	// what they show of it as secret.
	Links bool `yaml:"links"`
}

// Search configures what is found by searches in encrypted rooms.
type Search struct {
	// Whether the proxy keeps an index of what it decrypts, for searches: of keyed hashes of words,
	// sealed (docs/search.md). false deletes what there is; then nothing is found in encrypted rooms.
	Index bool `yaml:"index"`

	// How many messages an account's index has at most. The oldest go first.
	MaxMessages int `yaml:"max_messages"`
}
