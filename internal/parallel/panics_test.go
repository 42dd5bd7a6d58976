package parallel_test

import (
	"errors"
	"strings"
	"testing"

	"e2ee-proxy/internal/parallel"
)

// A panic of a goroutine comes to whoever waits for it, with its type and its place but without its
// value, and the others have ended before.
func TestPanicsComeToWhoWaits(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(){
		"each": func() {
			parallel.Each(1000, func(i int) {
				if i == 990 {
					throws()
				}
			})
		},
		"a group": func() {
			var g parallel.Group
			for range 3 {
				g.Go(throws)
			}
			g.Wait()
		},
		"within another": func() {
			var g parallel.Group
			g.Go(func() { parallel.Each(1000, func(int) { throws() }) })
			g.Wait()
		},
	} {
		err := parallel.Try(func() error { run(); return nil })
		p, ok := errors.AsType[*parallel.PanicError](err)
		if !ok || p.Kind != "parallel_test.value" || !strings.Contains(string(p.Stack), "throws") || strings.Contains(err.Error(), "hidden words") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, ok := errors.AsType[*parallel.PanicError](parallel.Safe(func() error { throws(); return nil })()); !ok {
		t.Error("a safe function is not")
	}
	broken := errors.New("broken")
	if err := parallel.Try(func() error { return broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	var quiet parallel.Group
	quiet.Go(func() {})
	quiet.Wait()
}

type value struct{ words string }

func throws() { panic(value{"hidden words"}) }
