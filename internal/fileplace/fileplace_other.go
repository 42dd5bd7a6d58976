//go:build !linux

package fileplace

// Of returns the same for every file: only the mark beside the database can tell a copy from
// the original here.
func Of(string) (string, error) { return "file", nil }
