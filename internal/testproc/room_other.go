//go:build !linux

package testproc

func hasRoom(string) bool { return false }
