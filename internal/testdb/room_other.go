//go:build !linux

package testdb

func hasRoom(string) bool { return false }
