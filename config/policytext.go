package config

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// PolicyText returns everything that decides who is given keys and what is shown, one setting
// a line, without secrets: two configurations with the same text decide alike.
func (c *Config) PolicyText() string {
	var b strings.Builder
	whole := reflect.ValueOf(*c)
	for _, s := range settings() {
		if strings.HasPrefix(s.path, "policy.") || strings.HasPrefix(s.path, "account.") {
			fmt.Fprintf(&b, "%s: %s\n", s.path, plainValue(whole.FieldByIndex(s.index)))
		}
	}
	for _, user := range slices.Sorted(maps.Keys(c.Accounts)) {
		own := reflect.ValueOf(c.Accounts[user])
		for _, s := range leaves(own.Type(), "", nil) {
			v := own.FieldByIndex(s.index)
			if !v.IsZero() && !isSecret(v.Type()) {
				fmt.Fprintf(&b, "accounts.%s.%s: %s\n", user, s.path, plainValue(v))
			}
		}
	}
	return b.String()
}

// plainValue is showValue, also for lists and what is pointed to.
func plainValue(v reflect.Value) string {
	if v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	if file, ok := v.Interface().(Document); ok {
		return fmt.Sprintf("%x", sha256.Sum256(file.Text()))
	}
	if v.Kind() == reflect.Slice && isGroup(v.Type().Elem()) {
		text, err := json.Marshal(v.Interface()) // rules, which have no secrets
		if err != nil {
			return err.Error()
		}
		return string(text)
	}
	if v.Kind() == reflect.Slice && !isSecret(v.Type()) {
		return fmt.Sprint(v.Interface())
	}
	return showValue(v)
}
