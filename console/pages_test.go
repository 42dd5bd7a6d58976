package console

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/qrcode"
)

// wantDid checks what the device was told.
func (r *rig) wantDid(want ...string) {
	r.t.Helper()
	if diff := cmp.Diff(want, r.accounts.of(alice).did()); diff != "" {
		r.t.Errorf("what was done (-want +got):\n%s", diff)
	}
}

// The first page says in one sentence how things stand, and then what to do, on which page.
func TestStatusInASentence(t *testing.T) {
	t.Parallel()
	problem := func(code string) func(d *fakeDevice) {
		return func(d *fakeDevice) {
			d.status.Problems = []e2ee.Problem{{Code: code, Message: "What happened.", Hint: "POST /x"}}
		}
	}
	for name, c := range map[string]struct {
		set  func(d *fakeDevice)
		want []string
		link string
	}{
		"fine":                {func(*fakeDevice) {}, []string{"All is well. Your messages are encrypted, and their history is saved."}, ""},
		"no backup by choice": {func(d *fakeDevice) { d.status.Backup.Enabled = false }, []string{"All is well.", "as you chose"}, ""},
		"not signed":          {problem("device_not_signed"), []string{"do not reach encrypted rooms", "What happened.", "Enter your recovery key"}, "/recovery"},
		"identity reset":      {problem("own_identity_changed"), []string{"do not reach encrypted rooms", "If it was you"}, "/recovery"},
		"no identity":         {problem("no_identity"), []string{"do not reach encrypted rooms", "Set it up"}, "/recovery"},
		"backup":              {problem("backup_broken"), []string{"message history is not safe"}, "/recovery"},
		"storage":             {problem("secret_storage_missing"), []string{"message history is not safe", "Set it up"}, "/recovery"},
		"others":              {problem("other_devices_not_signed"), []string{"not all of your devices are confirmed"}, "/devices"},
		"the proxy is at it":  {problem("setting_up"), []string{"still at work", "nothing for you to do", "Look again"}, ""},
		"keys refused":        {problem("keys_refused"), []string{"do not reach", "new device ID"}, "/devices"},
		"somebody's identity reset": {func(d *fakeDevice) {
			d.warnings = []e2ee.Warning{{ID: "1", Code: "identity_changed", UserID: bob, Message: "Bob's was reset."}}
		}, []string{"Some rooms wait for you", "Bob's was reset."}, "/warnings"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.signIn("alice")
			dev := r.accounts.of(alice)
			dev.set(func() { c.set(dev) })
			g := r.get("")
			r.wantText(g, 200, c.want...)
			if c.link != "" && !strings.Contains(g.Body, `class="button" href="/_e2ee_proxy/console`+c.link+`"`) {
				t.Errorf("no button to %s", c.link)
			}
			if strings.Contains(g.Body, "POST /") {
				t.Error("a person is told to call the API")
			}
		})
	}
}

// A person without a device here is told what that means; an administrator sees the overview.
func TestWithoutDevice(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.signIn("carol")
	r.wantText(r.get(""), 200, "encrypts for none of your devices yet", "give it the address of this proxy")
	r.wantText(r.get("/people"), 200, "encrypts for none of your devices yet")
	r.mu.Lock()
	r.admins = []id.UserID{carol}
	r.mu.Unlock()
	if g := r.get(""); g.Header.Get("Location") != "/_e2ee_proxy/console/admin" {
		t.Errorf("sent to %q", g.Header.Get("Location"))
	}
}

// The recovery key is shown once, and in no address.
func TestRecoveryKeyIsShownOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.signIn("alice")
	page := r.get("/recovery")
	r.wantText(page, 200, "Your recovery key waits for you")
	if strings.Contains(page.Body, goodKey) {
		t.Error("the page has the key already")
	}
	g := r.post("/recovery", "/recovery/show")
	r.wantText(g, 200, goodKey, "the only time", "I have kept it")
	if g.Header.Get("Cache-Control") != "no-store" {
		t.Error("a browser may keep the page")
	}
	r.wantText(r.post("/recovery", "/recovery/show"), 404, "There is no recovery key to show")
	if strings.Contains(text(r.get("/recovery").Body), "waits for you") {
		t.Error("the key is still offered")
	}
	r.wantDid("delete key")
}

// What a person types in as a recovery key is one, in whatever groups, or a passphrase.
func TestRecover(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.signIn("alice")
	dev := r.accounts.of(alice)
	dev.set(func() { dev.status.Problems = []e2ee.Problem{{Code: "device_not_signed"}} })
	r.wantText(r.get("/recovery"), 200, "Enter your recovery key")
	r.wantText(r.post("/recovery", "/recovery/enter", "recovery_key", "  \n"), 400, "Nothing was entered", "begins with Es")
	r.wantText(r.post("/recovery", "/recovery/enter", "recovery_key", "my passphrase"), 303)
	r.wantText(r.get("/recovery?done=recovered"), 200, "this device is confirmed")
	g := r.post("/recovery", "/recovery/enter", "recovery_key", " EsTM RN9x yFYJ\tYU7Y RGtB 2Ysv zBmg 6nMX 9sqq qDLp sjP4 dxkg\n", "restore", "yes")
	if g.Header.Get("Location") != "/_e2ee_proxy/console/backup?done=restoring" {
		t.Errorf("sent to %s", g.Header.Get("Location"))
	}
	dev.set(func() { dev.fail["recover"] = e2ee.ErrNoPassphrase })
	r.wantText(r.post("/recovery", "/recovery/enter", "recovery_key", "EsTx misspelt"), 403, "not the one of your account", "12 groups")
	if did := dev.did(); did[0] != `recover "" "my passphrase" false` || len(did) != 3 || strings.Contains(did[2], "  ") {
		t.Errorf("%q", did)
	}
}

// A reset needs a box ticked, and happens once, however often the form is sent.
func TestResetHappensOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.signIn("alice")
	r.wantText(r.post("/recovery", "/recovery/reset", "password", "p", "identity", "MasterKeyOf@alice:hs"), 400, "Nothing was changed", "lost the recovery key")
	r.wantDid()
	form := url.Values{"form_token": {r.token("/recovery")}, "sure": {"yes"}, "password": {"p"}, "identity": {"MasterKeyOf@alice:hs"}}
	r.wantText(r.do(r.form("/recovery/reset", form, nil)), 200, goodKey)
	// The same form, made again because the replica that had it was killed after it did so.
	r.mu.Lock()
	r.again = true
	r.mu.Unlock()
	r.wantText(r.do(r.form("/recovery/reset", form, nil)), 200, goodKey)
	// A replica that was killed had another request, and the form is sent again.
	r.accounts.of(alice).set(func() { r.accounts.of(alice).resetFor = "another" })
	r.wantText(r.do(r.form("/recovery/reset", form, nil)), 409, "Nothing was changed", "may be reset already")
	r.mu.Lock()
	r.again = false
	r.mu.Unlock()
	r.wantText(r.do(r.form("/recovery/reset", form, nil)), 409, "Nothing was changed", "may be reset already")
	r.wantDid(`reset "p"`, "delete key", "delete key") // each time it was shown
}

// People are listed and looked up; an ID with blanks around it, or as a link, is understood.
func TestPeople(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.signIn("alice")
	r.wantText(r.get("/people"), 200, "@bob:hs Not verified", "@carol:hs Verified")
	for _, typed := range []string{"@bob:hs", "  @bob:hs\n", "https://matrix.to/#/@bob:hs"} {
		if g := r.post("/people", "/people", "user_id", typed); g.Header.Get("Location") != "/_e2ee_proxy/console/people/@bob:hs" {
			t.Errorf("%q: %d %s", typed, g.Status, text(g.Body))
		}
	}
	for _, typed := range []string{"bob", "", "@bob", "bob@hs", "@b ob:hs", "@bob:hs/../admin"} {
		r.wantText(r.post("/people", "/people", "user_id", typed), 400, "is not a person's ID", "@alice:example.org")
	}
	r.wantText(r.post("/people", "/people", "user_id", "@nobody:hs"), 404, "Nothing is known of this person")

	many := make([]e2ee.Person, 120)
	for i := range many {
		many[i] = e2ee.Person{UserID: id.UserID(fmt.Sprintf("@u%03d:hs", i)), State: "pinned"}
	}
	dev := r.accounts.of(alice)
	dev.set(func() { dev.people = many })
	seen := 0
	for next := "/people"; next != ""; {
		g := r.get(next)
		seen += strings.Count(g.Body, `<th scope="row">`)
		_, rest, more := strings.Cut(g.Body, `href="/_e2ee_proxy/console/people?after=`)
		next = ""
		if more {
			after, _, _ := strings.Cut(rest, `"`)
			next = "/people?after=" + after
		}
	}
	if seen != 120 {
		t.Errorf("%d people were seen", seen)
	}
}

// Each button on a person's page does one thing, and the page after it says so.
func TestActOnPerson(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.signIn("alice")
	dev := r.accounts.of(alice)
	dev.set(func() {
		trust := dev.trust[bob]
		trust.State, trust.CurrentMasterKey = "changed", "NewKey"
		dev.trust[bob] = trust
	})
	g := r.get("/people/@bob:hs")
	r.wantText(g, 200, "Their digital identity was reset", "Ask them in another way", "1 device is not confirmed")
	if !strings.Contains(g.Body, `name="master_key" value="NewKey"`) {
		t.Error("the form does not say which identity is accepted")
	}
	const at = "/people/@bob:hs"
	for _, c := range []struct{ path, done, says string }{
		{"/accept", "accepted", "The new digital identity is accepted"},
		{"/withdraw", "withdrawn", "The verification is withdrawn"},
		{"/fingerprint", "verified", "This person is verified"},
	} {
		g := r.post(at, at+c.path, "master_key", " New Key\n")
		if g.Header.Get("Location") != "/_e2ee_proxy/console"+at+"?done="+c.done {
			t.Errorf("%s: %d %s", c.path, g.Status, text(g.Body))
		}
		r.wantText(r.get(at+"?done="+c.done), 200, c.says)
	}
	r.post(at, at+"/exception", "device_id", "BTEST", "exception", "trust")
	r.post(at, at+"/exception", "device_id", "BTEST", "exception", "distrust")
	if g := r.post("/exceptions", at+"/exception", "device_id", "BTEST", "exception", "none", "from", "exceptions"); g.Header.Get("Location") != "/_e2ee_proxy/console/exceptions?done=no-exception" {
		t.Errorf("sent to %s", g.Header.Get("Location"))
	}
	r.wantText(r.post(at, at+"/exception", "device_id", "BTEST", "exception", "maybe"), 400, "not clear which exception")
	r.wantText(r.post(at, at+"/nonsense"), 404)
	r.wantDid("acknowledge @bob:hs NewKey", "withdraw @bob:hs", "fingerprint @bob:hs NewKey", "override @bob:hs BTEST true", "override @bob:hs BTEST false", "override @bob:hs BTEST none")

	dev.set(func() { dev.fail["acknowledge"] = fmt.Errorf("now: %w", e2ee.ErrMasterKeyNotCurrent) })
	r.wantText(r.post(at, at+"/accept", "master_key", "Old"), 409, "may have changed again", "ask them in another way")
}

// A warning is dropped once; twice is no harm.
func TestWarnings(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.signIn("alice")
	dev := r.accounts.of(alice)
	dev.set(func() {
		dev.warnings = []e2ee.Warning{{ID: "w/1", Code: "identity_changed", UserID: bob, Message: "Bob's identity was reset.", Since: time.Date(2026, 11, 2, 3, 4, 5, 0, time.UTC)}}
	})
	r.wantText(r.get("/warnings"), 200, "Bob's identity was reset.", "2 November 2026, 03:04 UTC", "Look at @bob:hs")
	if g := r.post("/warnings", "/warnings/w%2F1/dismiss"); g.Header.Get("Location") != "/_e2ee_proxy/console/warnings?done=dismissed" {
		t.Errorf("%d %s", g.Status, text(g.Body))
	}
	dev.set(func() { dev.warnings, dev.fail["dismiss"] = nil, e2ee.ErrUnknownWarning })
	r.wantText(r.get("/warnings?done=dismissed"), 200, "The warning is gone", "There are no warnings")
	r.wantText(r.post("/recovery", "/warnings/w%2F1/dismiss"), 404, "gone already")
	r.wantDid("dismiss w/1", "dismiss w/1")
}

// The history's progress is shown, and a restore begun.
func TestBackup(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.signIn("alice")
	r.wantText(r.get("/backup"), 200, "Your message history is saved", "120 parts", "Fetch all of it")
	if g := r.post("/backup", "/backup/restore"); g.Header.Get("Location") != "/_e2ee_proxy/console/backup?done=restoring" {
		t.Errorf("%d %s", g.Status, text(g.Body))
	}
	dev := r.accounts.of(alice)
	dev.set(func() {
		dev.status.Backup.Restore = &e2ee.RestoreStatus{State: "running", Total: 200, Done: 50, Restored: 40}
	})
	g := r.get("/backup")
	r.wantText(g, 200, "50 of 200 are looked at; 40 were new", "Look again")
	if !strings.Contains(g.Body, `value="25"`) || !strings.Contains(g.Body, `http-equiv="refresh" content="5"`) {
		t.Error("no progress without script")
	}
	dev.set(func() { dev.status.Backup.Restore.State = "done" })
	r.wantText(r.get("/backup"), 200, "done 50 were looked at")
}

// A verification by emoji, from the request to the end, by forms alone; what is over says so.
func TestVerificationByForms(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.signIn("alice")
	dev := r.accounts.of(alice)
	g := r.post("/people/@bob:hs", "/verifications", "user_id", "@bob:hs")
	const at = "/verifications/flow1"
	if g.Header.Get("Location") != "/_e2ee_proxy/console"+at {
		t.Fatalf("%d %s", g.Status, text(g.Body))
	}
	g = r.get(at)
	r.wantText(g, 200, "Waiting for the other side", "show the request now", "more minutes", "Cancel the verification", "Look again")
	if !strings.Contains(g.Body, `http-equiv="refresh"`) {
		t.Error("without script it is never looked again")
	}
	dev.changed(func() {
		f := &dev.flows[0]
		f.State, f.CanEmoji, f.CanScan, f.QR, f.Message = "ready", true, true, []byte("MATRIX\x02\x00 binary \xff"), "Choose."
	})
	r.wantText(r.get(at), 200, "Compare emoji", "Let them scan this", "Scan theirs")
	picture := r.get(at + "/qr.svg")
	if picture.Status != 200 || picture.Header.Get("Content-Type") != "image/svg+xml" || !strings.HasPrefix(picture.Body, "<svg") {
		t.Errorf("the picture: %d %v", picture.Status, picture.Header)
	}
	r.wantText(r.post(at, at+"/emoji"), 303)
	dev.changed(func() {
		f := &dev.flows[0]
		f.State, f.Decimals = "compare", &[3]int{1234, 5678, 9012}
		f.Emoji = []e2ee.VerificationEmoji{{Symbol: "🐶", Name: "Dog", Names: map[string]string{"de": "Hund"}}, {Symbol: "🐱", Name: "Cat"}}
	})
	r.wantText(r.get(at), 200, "🐶 Dog", "🐱 Cat", "1234 5678 9012", "They match", "They do not match")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.server.URL+"/_e2ee_proxy/console"+at, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept-Language", "de-AT,de;q=0.9,en;q=0.5")
	r.wantText(r.do(req), 200, "🐶 Hund", "🐱 Cat")
	token := r.token(at)
	r.wantText(r.do(r.form(at+"/match", url.Values{"form_token": {token}}, nil)), 303)
	r.wantText(r.get(at), 200, "Back to all verifications")
	dev.set(func() { dev.fail["confirm"] = e2ee.ErrVerificationStep })
	r.wantText(r.do(r.form(at+"/match", url.Values{"form_token": {token}}, nil)), 409, "went on meanwhile")
	r.wantText(r.get("/verifications/nothing"), 404, "over, or never was")
	r.wantDid(`request @bob:hs ""`, "emoji flow1", "confirm flow1 true", "confirm flow1 true")
}

// A code is read from a picture, or from text with blanks in it; one of another account says so.
func TestScan(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.signIn("alice")
	dev := r.accounts.of(alice)
	const at = "/verifications/flow1"
	dev.set(func() {
		dev.flows = []e2ee.Verification{{ID: "flow1", UserID: bob, State: "ready", CanScan: true, Message: "Scan."}}
	})
	send := func(name string, content []byte) got {
		token := r.token(at)
		var body bytes.Buffer
		w := multipart.NewWriter(&body)
		_ = w.WriteField("form_token", token)
		if name != "" {
			f, err := w.CreateFormFile(name, "code.png")
			if err != nil {
				t.Fatal(err)
			}
			_, _ = f.Write(content)
		}
		_ = w.Close()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.server.URL+"/_e2ee_proxy/console"+at+"/picture", &body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", w.FormDataContentType())
		return r.do(req)
	}
	r.wantText(send("", nil), 400, "No picture was chosen")
	photo, err := qrcode.PNG([]byte("the code\xff"))
	if err != nil {
		t.Fatal(err)
	}
	r.wantText(send("picture", photo), 303)
	dev.set(func() { dev.flows[0].State = "ready" })
	code := []byte{'M', 0, 255, 254, 1}
	r.wantText(r.post(at, at+"/code", "code", "  "+base64.StdEncoding.EncodeToString(code)[:4]+" \n"+base64.StdEncoding.EncodeToString(code)[4:]), 303)
	dev.set(func() { dev.flows[0].State, dev.fail["scan"] = "ready", e2ee.ErrOtherCode })
	r.wantText(r.post(at, at+"/code", "code", "TUFUUklY"), 409, "belongs to another verification, or to somebody else")
	dev.set(func() { delete(dev.fail, "scan") })
	r.wantText(send("picture", []byte("a cat")), 400, "There is no QR code", "Take the picture again")
	if did := dev.did(); !slices.Contains(did, `scan flow1 "the code\xff"`) || !slices.Contains(did, `scan flow1 "M\x00\xff\xfe\x01"`) {
		t.Errorf("%q", did)
	}
	status := 400
	for n := 0; status == 400 && n < 100; n++ {
		status = send("picture", []byte("a cat")).Status
	}
	if status != 429 { // reading one takes seconds of a core
		t.Errorf("the last picture of many: %d", status)
	}
	dev.set(func() { dev.flows[0].State = "done" })
	r.wantText(send("picture", photo), 404)
}

// What strict rules would have done is counted, as a chart that can also be read.
func TestRollout(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.signIn("alice")
	r.wantText(r.get("/rollout"), 200, "strict", "nothing to count")
	dev := r.accounts.of(alice)
	dev.set(func() {
		dev.status.Policy = &e2ee.PolicyStatus{Send: "warn", Receive: "warn", Native: "off", Would: &e2ee.WouldHave{
			Rooms: []e2ee.RoomWouldHave{{RoomID: "!r:hs", WithoutKey: 3, Messages: 7, BlockedBy: []id.UserID{bob}}, {RoomID: "!s:hs", WithoutKey: 1}},
		}}
	})
	g := r.get("/rollout")
	r.wantText(g, 200, "on trial", "Devices that would not get your messages 4", "Messages that you would not be shown 7", "!r:hs : because of @bob:hs")
	if !strings.Contains(g.Body, `width="100"`) || strings.Count(g.Body, "<rect") != 4 {
		t.Error("there is no chart")
	}
}

// Administrators see all accounts, and end one's sessions.
func TestAdministrators(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.admins = []id.UserID{alice}
	r.signIn("alice")
	r.wantText(r.get("/admin"), 200, "@bot:hs", "With a digital identity 1", "written into the audit log")
	r.wantText(r.get("/admin/warnings"), 200, "Identity was reset")
	r.wantText(r.get("/admin/exceptions"), 200, "TEST of @bob:hs", "2 November 2026, 10:00 UTC, with A1")
	r.wantText(r.get("/admin/rollout"), 200, "Devices that would not get messages 3", "no-guests")
	r.wantText(r.get("/admin/accounts/@alice:hs"), 200, "PHONE", "End all sessions of @alice:hs")
	r.wantText(r.get("/admin/accounts/@nobody:hs"), 404, "no such account")
	r.wantText(r.post("/admin/accounts/@alice:hs", "/admin/accounts/@alice:hs/end-sessions"), 200, "A1 ended")
}

// The pages are about one device of several, which the person chooses.
func TestChooseDevice(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.signIn("alice")
	r.wantText(r.get(""), 200, "device A1", "Pidgin (A1)", "IRC (A2)")
	r.wantText(r.post("", "/acting", "device_id", "A2"), 303)
	r.wantText(r.get("/devices"), 200, "device A2")
	r.accounts.mu.Lock()
	r.accounts.held[alice] = r.accounts.held[alice][:1] // it was logged out
	r.accounts.mu.Unlock()
	r.wantText(r.get("/devices"), 200, "device A1")
}
