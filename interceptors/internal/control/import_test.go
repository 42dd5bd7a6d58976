package control

import (
	"net/http"
	"os"
	"strings"
	"testing"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/budget"
)

// The body of an import means to us what it means to every strict reader of JSON.
func TestImportBody(t *testing.T) {
	t.Parallel()
	const file = "-----BEGIN\nAAA/+B\n-----END"
	long := strings.Repeat("long", maxPassphrase/2)
	for _, test := range []struct{ name, body, asked, code string }{
		{"as clients write it", `{"passphrase":"p","keys":"-----BEGIN\nAAA/+B\n-----END"}`, file, ""},
		{"the file first", `{"keys":"-----BEGIN\nAAA/+B\n-----END","passphrase":"p"}`, file, ""},
		{"with escapes", `{"k\u0065ys":"\u002d----BEGIN\u000aAAA\/\u002BB\n-----\u0045ND","pass\u0070hrase":"\u0070"}`, file, ""},
		{"with other escapes", `{"keys":"a\r\n\t\"\\\b\f\u00e9z","passphrase":"p"}`, "a\r\n\t\"\\\x00\x00\x00z", ""},
		{"space around", " \n{ \"keys\" : \"x\" , \"passphrase\" : \"p\" } \n", "x", ""},
		{"an empty file", `{"keys":"","passphrase":"p"}`, "", ""},
		{"no file", `{"passphrase":"p"}`, "", apierr.CodeMissingParam},
		{"null for a file", `{"passphrase":"p","keys":null}`, "", apierr.CodeMissingParam},
		{"no passphrase", `{"keys":"k"}`, "", apierr.CodeMissingParam},
		{"an empty passphrase", `{"keys":"k","passphrase":""}`, "", apierr.CodeMissingParam},
		{"null for a passphrase", `{"keys":"k","passphrase":null}`, "", apierr.CodeMissingParam},
		{"nothing", `{}`, "", apierr.CodeMissingParam},
		{"no body", ``, "", apierr.CodeNotJSON},
		{"two files", `{"passphrase":"p","keys":"a","keys":"b"}`, "", apierr.CodeBadJSON},
		{"two files by escapes", `{"passphrase":"p","keys":"a","key\u0073":"b"}`, "", apierr.CodeBadJSON},
		{"two passphrases", `{"passphrase":"p","passphrase":"q","keys":"a"}`, "", apierr.CodeBadJSON},
		{"another member", `{"passphrase":"p","keys":"a","x":1}`, "", apierr.CodeBadJSON},
		{"another member with a very long name", `{"passphrase":"p","keys":"a","` + long + `":1}`, "", apierr.CodeBadJSON},
		{"a list for a file", `{"passphrase":"p","keys":["a"]}`, "", apierr.CodeBadJSON},
		{"an object for a passphrase", `{"passphrase":{"p":1},"keys":"a"}`, "", apierr.CodeBadJSON},
		{"a very long passphrase", `{"passphrase":"` + long + `","keys":"a"}`, "", apierr.CodeBadJSON},
		{"a passphrase that is no text", "{\"passphrase\":\"\xff\",\"keys\":\"a\"}", "", apierr.CodeBadJSON},
		{"half a surrogate", `{"passphrase":"\ud800","keys":"a"}`, "", apierr.CodeBadJSON},
		{"a list", `[]`, "", apierr.CodeBadJSON},
		{"no JSON", `{"passphrase":"p","keys":"a"`, "", apierr.CodeNotJSON},
		{"something behind it", `{"passphrase":"p","keys":"a"}{}`, "", apierr.CodeNotJSON},
	} {
		w, asked := controlWorld(t, e2ee.ModeProxied)
		c := callOf(ImportKeys, http.MethodPost, "keys/import", test.body)
		c.maxBody = 1 << 20
		_, err := w.do(c)
		if test.code != "" {
			t.Log(test.name)
			wantError(t, err, http.StatusBadRequest, test.code)
		} else if err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		switch {
		case test.code != "" && len(asked.asked) > 0:
			t.Errorf("%s: the engine was asked %q", test.name, asked.asked)
		case test.code == "" && (len(asked.asked) != 1 || asked.file != test.asked):
			t.Errorf("%s: the engine was asked %q with %q", test.name, asked.asked, asked.file)
		}
	}
	w, _ := controlWorld(t, e2ee.ModeProxied)
	c := callOf(ImportKeys, http.MethodPost, "keys/import", `{"keys":"`+strings.Repeat("k", 1000)+`"}`)
	c.maxBody = 1000
	_, err := w.do(c)
	wantError(t, err, http.StatusRequestEntityTooLarge, apierr.CodeTooLarge)
}

// Attack vector: files of keys fill the memory, or the disk, of everybody.
//
// Expected: what is large is on the disk, in the name of its user, and within what one
// user and all together may have there; what has no room is refused with words, and
// everything is given back afterwards.
func TestImportsAreBoundedOnDisk(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	dir, disk := t.TempDir(), budget.New(8*mib, 4*mib)
	handlers := Handlers(exchange.Spools{Dir: dir, Disk: disk, RAM: budget.New(256*mib, 32*mib)}, newLimits(t), nil, nil)
	do := func(size int, during func()) error {
		w, asked := controlWorld(t, e2ee.ModeProxied)
		w.handlers, asked.during = handlers, during
		c := callOf(ImportKeys, http.MethodPost, "keys/import", `{"passphrase":"p","keys":"`+strings.Repeat("k", size)+`"}`)
		c.maxBody = 80 * mib
		_, err := w.do(c)
		return err
	}
	if err := do(mib, func() {
		if got := disk.Taken(); got != 2*mib {
			t.Errorf("%d are taken for a file of 1 MiB", got)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 1 {
			t.Errorf("in the folder: %v, %v", left, err)
		}
	}); err != nil {
		t.Error(err)
	}
	wantError(t, do(5*mib, nil), http.StatusBadGateway, apierr.CodeTooLarge)
	if err := disk.Take(alice.String(), 3*mib); err != nil {
		t.Fatal(err)
	}
	wantError(t, do(2*mib, nil), http.StatusTooManyRequests, apierr.CodeLimitExceeded)
	if got := disk.Taken(); got != 3*mib {
		t.Errorf("%d are taken, 3 MiB of them by the test", got)
	}
}
