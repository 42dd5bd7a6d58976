package jsonscan_test

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/internal/jsonscan"
)

// alike are objects that a guess by what stood in an object before could take for one another.
var alike = []string{
	`{"type":"x","state_key":"","content":{"membership":"join"}}`,
	`{"type":"x","state_kez":"","content":{"membership":"join"}}`,
	`{"type":"x","state_key" :"","content":{"membershi":"join"}}`,
	`{"type":"x","state_key":"","content":{"membership":"join"},"unsigned":{"prev_content":{"membership":"ban"}}}`,
	`{"type":"x","state_key":"","prev_content":{"membership":"join"}}`,
	`{"type":{"type":1},"state_key":[{"type":2}],"content":"membership"}`,
	`{"decrypted":true,"type":"x"}`,
	`{"content":{"decrypted":true,"membership":"join"},"type":"x"}`,
	`{"content":{"m.relations":1,"membership":"join"},"type":"x"}`,
	`{"a_name_of_twenty_byt":1,"a_name_of_twenty_byte":2,"type":"x"}`,
	`{"a":1,"a":2,"type":7,"type":"x"}`,
	`{"t\u0079pe":"x","state_key":""}`,
	`{"type":x}`, `{"type"}`, `{"type":"x",}`, `{"type":"x","type"`, `{,"type":"x"}`, `{"type":"x"{"type":"y"}}`, `{}`, `7`,
}

// Objects in a list are read as each alone would be, whichever stood before them.
func TestGuessedMembers(t *testing.T) {
	t.Parallel()
	opt := jsonscan.Options{Watch: watch}
	check := func(list []string) {
		body := `[` + strings.Join(list, ",") + `]` + strings.Repeat(" ", 30)
		want, failed := scanned(strings.NewReader(body), records(), opt.Slow())
		got, err := scanned(strings.NewReader(body), records(), opt)
		if diff := cmp.Diff(want, got); diff != "" || (err == nil) != (failed == nil) {
			t.Fatalf("%s: %v, the slow way %v:\n%s", body, err, failed, diff)
		}
	}
	for _, a := range alike {
		for _, b := range alike {
			check([]string{a, b, a, a, b})
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		list := make([]string, 6)
		for i := range list {
			one := []byte(alike[random.IntN(len(alike))])
			if random.IntN(3) == 0 {
				one[random.IntN(len(one))] = alike[0][random.IntN(len(alike[0]))]
			}
			if random.IntN(6) == 0 {
				one = bytes.Replace(one, []byte(`,`), []byte(` ,`), 1)
			}
			list[i] = string(one)
		}
		check(list)
	}
}
