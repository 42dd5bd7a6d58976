package config

import (
	"reflect"
	"slices"
)

// Changed returns the names of the settings that differ between two configurations, in the
// order of the struct.
func Changed(a, b *Config) []string {
	var names []string
	from, to := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	for _, s := range settings() {
		if !reflect.DeepEqual(from.FieldByIndex(s.index).Interface(), to.FieldByIndex(s.index).Interface()) {
			names = append(names, s.path)
		}
	}
	return names
}

// With returns a copy of the configuration in which the named settings are those of another
// one. Neither may be changed afterwards.
func (c *Config) With(other *Config, names []string) *Config {
	out := *c
	from, to := reflect.ValueOf(other).Elem(), reflect.ValueOf(&out).Elem()
	for _, s := range settings() {
		if slices.Contains(names, s.path) {
			to.FieldByIndex(s.index).Set(from.FieldByIndex(s.index))
		}
	}
	return &out
}
