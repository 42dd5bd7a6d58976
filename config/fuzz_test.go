package config

import (
	"errors"
	"testing"
)

// Whatever the file says, it is either a configuration, which then loads the same way
// again, or an *Error that names every problem; never a panic, never both.
func FuzzFile(f *testing.F) {
	for _, seed := range []string{
		string(Example()), "homeserver: https://h\n", "a: &a [*a]\n", "? [a]\n: b\n", "log: {level: {}}\n", "- a\n", "accounts: {? {} : {}}\n",
		"master_key: {previous: [{key: " + testKey + "}, 1]}\n", "policy: {bridges: [[]]}\n", "<<: {}\n", "!!binary x: y\n", "\x00", "data: !!int x\n",
		"accounts: {'@a:h': }\n", "homeserver: https://h\ntrusted_proxies: [fe80::1%eth0, ::/0]\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		path := write(t, "proxy.yaml", text)
		first, err := Load(Sources{File: path})
		if bad := (*Error)(nil); err != nil && (!errors.As(err, &bad) || len(bad.Problems) == 0 || first != nil) {
			t.Fatalf("configuration %v, error %v", first, err)
		}
		if err != nil {
			return
		}
		again, err := Load(Sources{File: path})
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range show(first) {
			if show(again)[name] != value {
				t.Errorf("%s is %q, then %q", name, value, show(again)[name])
			}
		}
	})
}
