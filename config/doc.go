// Package config reads the settings of e2ee-proxy.
//
// It promises that every setting has one name in three spellings (YAML, environment,
// flag), that flags win over the environment, the environment over the file and the
// file over the defaults, that all mistakes are reported at once with their place and
// what to do, and that the doc comments in settings.go are what `config example` and
// docs/configuration.md show.
//
// It must never print a secret, accept a key it does not know, or have side effects
// beyond reading the files it was pointed at.
//
// Importers: everything above it, and cmd/e2ee-proxy. It imports internal packages only.
package config
