package main

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/config"
	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/trustcache"
)

// force puts a configuration in force.
func force(cfg *config.Config) *atomic.Pointer[config.Config] {
	p := new(atomic.Pointer[config.Config])
	p.Store(cfg)
	return p
}

// What the configuration says is what the engine is told, word by word. A word that
// does not exist is the strictest one.
func TestPolicy(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		in   config.Policy
		want trustcache.Policy
	}{
		{"defaults", config.Policy{}, trustcache.Policy{}},
		{"defaults are strict", config.Policy{}, trustcache.Policy{Send: trustcache.ModeEnforce, Receive: trustcache.ModeEnforce}},
		{"warn on send", config.Policy{Send: config.Rollout{Mode: config.Warn}}, trustcache.Policy{Send: trustcache.ModeWarn}},
		{"off on receive", config.Policy{Receive: config.Rollout{Mode: config.Off}}, trustcache.Policy{Receive: trustcache.ModeOff}},
		{"no such mode", config.Policy{Send: config.Rollout{Mode: 99}}, trustcache.Policy{Send: trustcache.ModeEnforce}},
		{"plain withheld", config.Policy{PlainInEncrypted: config.PlainWithhold}, trustcache.Policy{InClear: trustcache.InClearWithhold}},
		{"no such word for plain", config.Policy{PlainInEncrypted: 99}, trustcache.Policy{InClear: trustcache.InClearWithhold}},
		{"unproven withheld", config.Policy{Unproven: config.UnprovenWithhold}, trustcache.Policy{Unproven: trustcache.UnprovenWithhold}},
		{"withheld hidden", config.Policy{Withheld: config.WithheldHide}, trustcache.Policy{Withheld: trustcache.WithheldHide}},
		{"no such word for withheld", config.Policy{Withheld: 99}, trustcache.Policy{}},
		{"no such word for unproven", config.Policy{Unproven: 99}, trustcache.Policy{Unproven: trustcache.UnprovenWithhold}},
		{"bridges", config.Policy{Bridges: []id.UserID{"@b:hs"}}, trustcache.Policy{Bridges: map[id.UserID]bool{"@b:hs": true}}},
	} {
		got := policyOf(force(&config.Config{Policy: c.in}))()
		if len(got.Bridges) == 0 {
			got.Bridges = nil
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// A staged rollout begins to enforce at its date, in a process that runs since before.
func TestPolicyChangesWithTheDate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		from := time.Now().Add(48 * time.Hour)
		policy := policyOf(force(&config.Config{Policy: config.Policy{Send: config.Rollout{Mode: config.Warn, EnforceFrom: config.Date{Time: from}}}}))
		if got := policy().Send; got != trustcache.ModeWarn {
			t.Errorf("before the date: %v", got)
		}
		time.Sleep(48 * time.Hour)
		if got := policy().Send; got != trustcache.ModeEnforce {
			t.Errorf("from the date on: %v", got)
		}
	})
}

func TestAccountSettings(t *testing.T) {
	t.Parallel()
	cfg := config.Default()
	notRequired := config.NotRequired
	cfg.Accounts = map[id.UserID]config.Account{
		"@bot:hs": {RecoveryKey: secret.NewString("key"), AcknowledgeUnverifiedChanges: config.AcknowledgeAutomatic},
		"@dev:hs": {Passphrase: secret.NewString("phrase"), RequireCrossSigning: &notRequired},
	}
	if got := accountSettings(&cfg, "@else:hs"); got.AllowUnsigned || got.AcknowledgeUnverified || !got.RecoveryKey.IsZero() || !got.Passphrase.IsZero() {
		t.Errorf("an account without settings has %+v", got)
	}
	if got := accountSettings(&cfg, "@bot:hs"); got.AllowUnsigned || !got.AcknowledgeUnverified || got.RecoveryKey.Reveal() != "key" {
		t.Errorf("the bot has %+v", got)
	}
	if got := accountSettings(&cfg, "@dev:hs"); !got.AllowUnsigned || got.AcknowledgeUnverified || got.Passphrase.Reveal() != "phrase" {
		t.Errorf("the developer has %+v", got)
	}
	cfg.Accounts["@own:hs"] = config.Account{AutoVerify: []config.AutoVerify{config.AutoVerifyOwn}}
	if accountSettings(&cfg, "@dev:hs").AutoVerifyOwn || !accountSettings(&cfg, "@own:hs").AutoVerifyOwn {
		t.Error("auto_verify is not handed on")
	}
	for word, ignored := range map[config.SecretRequests]bool{config.SecretRequestsAnswer: false, config.SecretRequestsIgnore: true, 99: true} {
		cfg.Account.SecretRequests = word
		if got := accountSettings(&cfg, "@else:hs"); got.IgnoreSecretRequests != ignored {
			t.Errorf("secret_requests: %s gives %+v", word, got)
		}
	}
}

// Notices can be switched off for one account, and on for one where they are off for all.
func TestNoticesOfOneAccount(t *testing.T) {
	t.Parallel()
	on, off := config.SwitchOn, config.SwitchOff
	for _, hidden := range []bool{false, true} {
		cfg := config.Default()
		cfg.Clients.HideWarnings = hidden
		cfg.Accounts = map[id.UserID]config.Account{"@bot:hs": {Notices: &off}, "@person:hs": {Notices: &on}, "@other:hs": {}}
		for user, want := range map[id.UserID]bool{"@bot:hs": true, "@person:hs": false, "@other:hs": hidden, "@else:hs": hidden} {
			if got := accountSettings(&cfg, user).NoNotices; got != want {
				t.Errorf("hide_warnings %v: the engine hides notices from %s: %v", hidden, user, got)
			}
			if got := interceptorOptions(&cfg, force(&cfg)).HideNotices(user); got != want {
				t.Errorf("hide_warnings %v: searches hide notices from %s: %v", hidden, user, got)
			}
		}
	}
}

// Links to files are off, and can be switched on for all, or for one account and off for one.
func TestLinksOfOneAccount(t *testing.T) {
	t.Parallel()
	on, off := config.SwitchOn, config.SwitchOff
	if cfg := config.Default(); accountSettings(&cfg, "@else:hs").MediaLinks {
		t.Error("there are links by default")
	}
	for _, links := range []bool{false, true} {
		cfg := config.Default()
		cfg.Media.Links = links
		cfg.Accounts = map[id.UserID]config.Account{"@bot:hs": {MediaLinks: &on}, "@person:hs": {MediaLinks: &off}, "@other:hs": {}}
		for user, want := range map[id.UserID]bool{"@bot:hs": true, "@person:hs": false, "@other:hs": links, "@else:hs": links} {
			if got := accountSettings(&cfg, user).MediaLinks; got != want {
				t.Errorf("media.links %v: %s has links: %v", links, user, got)
			}
		}
	}
}

func TestLogLevels(t *testing.T) {
	t.Parallel()
	for l, want := range map[config.LogLevel]zerolog.Level{
		config.LogDebug: zerolog.DebugLevel, config.LogInfo: zerolog.InfoLevel, config.LogWarn: zerolog.WarnLevel,
		config.LogError: zerolog.ErrorLevel, 99: zerolog.InfoLevel,
	} {
		if got := level(l); got != want {
			t.Errorf("%s is %s, want %s", l, got, want)
		}
	}
}

// What clients are shown of events that cannot be read reaches the engine, and how long they
// wait for keys the handlers. What is no such word holds.
func TestWhatClientsAreShown(t *testing.T) {
	t.Parallel()
	cfg := config.Default()
	cfg.Clients.KeyWait = 7 * time.Second
	if got := interceptorOptions(&cfg, force(&cfg)).Sync.KeyWait; got != 7*time.Second {
		t.Errorf("clients wait %v", got)
	}
	for in, want := range map[config.Undecryptable]e2ee.Undecryptable{
		config.UndecryptableHold: e2ee.UndecryptableHold, config.UndecryptablePlaceholder: e2ee.UndecryptablePlaceholder,
		config.UndecryptableEvent: e2ee.UndecryptableEvent, 99: e2ee.UndecryptableHold,
	} {
		cfg.Clients.Undecryptable = in
		if got := engineOptions(&cfg, force(&cfg), zerolog.Nop(), nil, nil).Undecryptable; got != want {
			t.Errorf("%v is %v, want %v", in, got, want)
		}
	}
}

// How much memory responses may take beside the heap reaches what keeps them.
func TestMemoryBesideTheHeap(t *testing.T) {
	t.Parallel()
	cfg := config.Default()
	cfg.Limits.SpoolMemory = 5 << 20
	if got := interceptorOptions(&cfg, force(&cfg)).Sync.SpoolMemory; got != 5<<20 {
		t.Errorf("%d bytes", got)
	}
}

// A word for previews that does not exist tells the homeserver nothing, and clients are told
// the limit that uploads meet.
func TestMediaSettings(t *testing.T) {
	t.Parallel()
	for word, want := range map[config.URLPreviews]bool{config.URLPreviewsEmpty: false, config.URLPreviewsPass: true, 99: false} {
		cfg := config.Default()
		cfg.Media.URLPreviews = word
		if got := interceptorOptions(&cfg, force(&cfg)); got.URLPreviews != want || got.MaxUpload != int64(cfg.Limits.Upload) {
			t.Errorf("%v: %t, uploads of %d", word, got.URLPreviews, got.MaxUpload)
		}
	}
}

// Whether there is a search index, and how large it may be, reaches the engine.
func TestSearchSettings(t *testing.T) {
	t.Parallel()
	cfg := config.Default()
	if got := engineOptions(&cfg, force(&cfg), zerolog.Nop(), nil, nil).Search; got != (e2ee.SearchOptions{Messages: 100_000}) {
		t.Errorf("by default: %+v", got)
	}
	cfg.Search = config.Search{MaxMessages: 7}
	if got := engineOptions(&cfg, force(&cfg), zerolog.Nop(), nil, nil).Search; got != (e2ee.SearchOptions{Off: true, Messages: 7}) {
		t.Errorf("without an index: %+v", got)
	}
}

// Who says who the client is, and how, reaches the listener. A word that does not exist leaves
// it at the usual header.
func TestWhoSaysWhoTheClientIs(t *testing.T) {
	t.Parallel()
	for word, want := range map[config.ForwardedHeader]bool{config.ForwardedHeaderX: false, config.ForwardedHeaderStandard: true, 99: false} {
		cfg := config.Default()
		cfg.ForwardedHeader, cfg.ListenProxyProtocol = word, want
		got := proxyOptions(&cfg, zerolog.Nop(), nil, nil)
		if got.ReadsForwarded != want || got.ProxyProtocol != want {
			t.Errorf("%v: Forwarded is read: %t; the PROXY protocol: %t", word, got.ReadsForwarded, got.ProxyProtocol)
		}
	}
}
