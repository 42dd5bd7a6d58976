package olm

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// lettersFor seals one content for so many new devices, some of which have answered.
func lettersFor(t *testing.T, n int) (*end, []Message) {
	t.Helper()
	alice := newEnd(t, "@alice:x", "ALICE")
	var devices []*trustcache.Device
	for i := range n {
		bob := newEnd(t, id.UserID(fmt.Sprintf(`@"b%d":x`, i/3)), id.DeviceID(fmt.Sprint("ÜD", i%3)))
		bob.begins(alice, alice.seal(bob, "one", bob.oneTimeKey()), "one")
		if i%2 == 0 {
			alice.reads(bob, bob.seal(alice, "two", ""), "two")
		}
		devices = append(devices, bob.dev)
	}
	frame := NewFrame(alice.own, "@alice:x", json.RawMessage(`{"k":1}`), "m.room_key", json.RawMessage(`{"text":"to all"}`))
	sealed, _, without := alice.all.SealAll(alice.own, frame, devices, nil, alice.now)
	if len(sealed) != n || len(without) != 0 {
		t.Fatalf("%d are sealed, %d not", len(sealed), len(without))
	}
	return alice, sealed
}

// A request that is made again of what is stored is the one that was made at first, byte for
// byte: a homeserver that had taken it in before a crash must not be given another text under
// the same message keys.
func TestTheBodyOfARecipeIsTheSame(t *testing.T) {
	t.Parallel()
	_, sealed := lettersFor(t, 40)
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(sealed), func(i, j int) { sealed[i], sealed[j] = sealed[j], sealed[i] })
	want := make(map[string]map[string]json.RawMessage)
	for i := range sealed {
		user := sealed[i].To.UserID.String()
		if want[user] == nil {
			want[user] = make(map[string]json.RawMessage)
		}
		want[user][sealed[i].To.DeviceID.String()] = sealed[i].Text()
	}
	parcels := Pack("m.room.encrypted", sealed, time.Unix(1, 0))
	items := []store.OutboxItem{parcels[0].Item()}
	if len(parcels) != 1 || len(items[0].Body) != 0 || len(items[0].Recipe) == 0 {
		t.Fatalf("%d requests, the first has a body of %d bytes", len(parcels), len(items[0].Body))
	}
	body, err := RecipeBody(items[0].Recipe)
	if err != nil {
		t.Fatal(err)
	}
	if first := parcels[0].Body(); !bytes.Equal(first, body) {
		t.Errorf("what is sent at first is\n%s\nand after a crash\n%s", first, body)
	}
	var got struct {
		Messages map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	for user, devices := range want {
		for device, content := range devices {
			if string(got.Messages[user][device]) != string(content) {
				t.Errorf("%s of %s gets\n%s\nand got\n%s", device, user, got.Messages[user][device], content)
			}
		}
	}
	if again, err := RecipeBody(items[0].Recipe); err != nil || !bytes.Equal(again, body) || len(got.Messages) != len(want) {
		t.Errorf("the second time it is another: %v, for %d users", err, len(got.Messages))
	}
}

// The format is kept: a recipe that a program of this version has stored is made into this
// body for ever, also by a program that was installed after a crash.
func TestTheFormatOfRecipes(t *testing.T) {
	t.Parallel()
	raw := []byte{1, 4, '{', '"', 'a', '"', 1, 'S', 2}
	for _, user := range []string{"@b:x", "@c:x"} {
		raw = append(append(raw, 1, byte(len(user))), user...)
		raw = append(append(raw, 1), "D"...)
		raw = append(append(raw, 0), bytes.Repeat([]byte{7}, 32)...)
		raw = append(raw, 1, 3, 'k', 'e', 'y')
		if user == "@b:x" {
			raw = append(append(raw, 1), bytes.Repeat([]byte{8}, 96)...)
		} else {
			raw = append(raw, 0)
		}
		raw = append(append(raw, bytes.Repeat([]byte{9}, 32)...), 0x85, 0x01)
		raw = append(raw, bytes.Repeat([]byte{10}, 32)...)
	}
	body, err := RecipeBody(raw)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(body)
	if got := hex.EncodeToString(sum[:]); got != formatDigest {
		t.Errorf("the digest is %s, the body\n%s", got, body)
	}
	messages, err := decodeRecipe(raw)
	if err != nil {
		t.Fatal(err)
	}
	if got := encodeRecipe(messages); !bytes.Equal(got, raw) {
		t.Errorf("it is written as\n%x\nand was\n%x", []byte(got), raw)
	}
}

// formatDigest is the SHA-256 of the body in TestTheFormatOfRecipes.
const formatDigest = "2565764960d4d45011e05c8180138e77a8c833562e20b20804083f1570197319"

// Recipes that are cut off, or of a format that is not known, are refused, and nothing is
// read beyond their end.
func TestDamagedRecipes(t *testing.T) {
	t.Parallel()
	_, sealed := lettersFor(t, minRecipe)
	recipe := OutboxItems("m.room.encrypted", sealed, time.Unix(1, 0))[0].Recipe
	for n := range recipe {
		if _, err := RecipeBody(recipe[:n]); err == nil {
			t.Errorf("the first %d bytes are taken", n)
		}
	}
	other := append(secret.Bytes{3}, recipe[1:]...)
	if _, err := RecipeBody(other); err == nil {
		t.Error("another format is taken")
	}
	if _, err := RecipeBody(append(bytes.Clone(recipe), 0)); err == nil {
		t.Error("a byte too many is taken")
	}
}

// FuzzRecipe: what is read is written the same again.
func FuzzRecipe(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		messages, err := decodeRecipe(raw)
		if err != nil || len(messages) == 0 {
			return
		}
		again, err := decodeRecipe(encodeRecipe(messages))
		if err != nil || len(again) != len(messages) {
			t.Fatalf("%d messages, %d when they are read again: %v", len(messages), len(again), err)
		}
	})
}

// Public keys that are not encoded as we would stay as they are.
func TestOddKeysInRecipes(t *testing.T) {
	t.Parallel()
	_, sealed := lettersFor(t, minRecipe)
	good := sealed[0].letter.ed25519.String()
	raw, _ := base64.RawStdEncoding.DecodeString(good)
	for i, key := range []string{"", "x", good + "=", good[:42], strings.Repeat("A", 42) + "B", base64.StdEncoding.EncodeToString(raw)} {
		sealed[i].letter.ed25519 = id.Ed25519(key)
	}
	parcel := Pack("m.room.encrypted", sealed, time.Unix(1, 0))[0]
	if body, err := RecipeBody(parcel.Item().Recipe); err != nil || !bytes.Equal(body, parcel.Body()) {
		t.Errorf("what is sent after a crash is another: %v", err)
	}
	again, err := decodeRecipe(encodeRecipe(inOrder(sealed)))
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range inOrder(sealed) {
		if *again[i].letter != *m.letter {
			t.Errorf("%d: %q is read as %q", i, m.letter.ed25519, again[i].letter.ed25519)
		}
	}
}

// What a request is about is stored with it in a format that is kept, and what is cut off, too long or
// without a recipient is refused: it must not leave without being decided about.
func TestWhatARequestIsAboutIsKept(t *testing.T) {
	t.Parallel()
	alice, sealed := lettersFor(t, minRecipe+1)
	items := AboutItems(About{Kind: KindHistory, Room: "!r:x"}, sealed, alice.now)
	body, err := RecipeBody(items[0].Recipe)
	if parcels := Pack(typeEncrypted, sealed, alice.now); err != nil || len(items) != 1 || len(items[0].Body) != 0 || !bytes.Equal(body, parcels[0].Body()) {
		t.Errorf("%d requests, %s, %v", len(items), body, err)
	}
	about, err := AboutItem(&items[0])
	if err != nil || about.Kind != KindHistory || about.Room != "!r:x" || len(about.To) != len(sealed) || about.User() != "" {
		t.Fatalf("%+v, %v", about, err)
	}
	for i := range about.To {
		is := func(m Message) bool { return about.To[i].Is(m.To) }
		if n := slices.IndexFunc(sealed, is); n < 0 || about.To[i].Is(nil) {
			t.Errorf("%+v is none of the recipients", about.To[i])
		}
	}
	kept := secret.Bytes("\x02\x06secret\x00\x01\x04@a:x\x01D\x02k1\x02k2\x02{}")
	want := About{Kind: KindSecret, To: []Recipient{{"@a:x", "D", "k1", "k2"}}}
	if got, err := AboutItem(&store.OutboxItem{TxnID: txnMark, EventType: typeEncrypted, Recipe: kept}); err != nil || fmt.Sprint(*got) != fmt.Sprint(want) {
		t.Errorf("%+v, %v", got, err)
	}
	if got := encodeAbout(&want, json.RawMessage(`{}`)); !bytes.Equal(got, kept) {
		t.Errorf("written as %q", []byte(got))
	}
	for n := 1; n < len(kept); n++ {
		if _, err := AboutItem(&store.OutboxItem{EventType: typeEncrypted, Recipe: kept[:n]}); err == nil {
			t.Errorf("the first %d bytes are taken", n)
		}
	}
	for _, bad := range []secret.Bytes{append(bytes.Clone(kept), 0), secret.Bytes("\x02\x00\x00\x00\x02{}"), {3}} {
		if _, err := AboutItem(&store.OutboxItem{EventType: typeEncrypted, Recipe: bad}); err == nil {
			t.Errorf("%q is taken", []byte(bad))
		}
	}
}

// Of a request that was stored without what it is about, the request itself says whom it is for, unless it
// cannot be told. Those of this program have nothing that need be decided again then.
func TestWhomAnOlderRequestIsFor(t *testing.T) {
	t.Parallel()
	_, sealed := lettersFor(t, minRecipe)
	for _, messages := range [][]Message{sealed[:1], sealed[:3], sealed} {
		item := OutboxItems(typeEncrypted, messages, time.Unix(1, 0))[0]
		if about, err := AboutItem(&item); about != nil || err != nil {
			t.Errorf("of this program: %+v, %v", about, err)
		}
		item.TxnID = strings.TrimPrefix(item.TxnID, txnMark)
		about, err := AboutItem(&item)
		if err != nil || about.Kind != KindUnknown || len(about.To) != len(messages) {
			t.Fatalf("%+v, %v", about, err)
		}
		for i := range about.To {
			if !slices.ContainsFunc(messages, func(m Message) bool { return about.To[i].Is(m.To) }) {
				t.Errorf("%+v is none of the recipients", about.To[i])
			}
		}
	}
	for _, body := range []string{``, `{}`, `[]`, `{"messages":{"@a:x":{}}}`, `{"messages":{"@a:x":{"D":{}}}}`, `{"messages":{"@a:x":{"D":{"ciphertext":{"k":{},"l":{}}}}}}`} {
		if about, err := AboutItem(&store.OutboxItem{EventType: typeEncrypted, Body: []byte(body)}); err == nil {
			t.Errorf("%s is for %+v", body, about)
		}
	}
	if about, err := AboutItem(&store.OutboxItem{EventType: "m.room_key_request", Body: []byte(`{}`)}); about != nil || err != nil {
		t.Errorf("a request: %+v, %v", about, err)
	}
}
