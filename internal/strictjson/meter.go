package strictjson

import (
	"fmt"
	"io"
)

// Meter returns an error when more than Limit was read since Used was last set to 0, so
// that one value cannot take all memory.
type Meter struct {
	R           io.Reader
	Used, Limit int
}

// Read implements [io.Reader].
func (m *Meter) Read(p []byte) (int, error) {
	if m.Used > m.Limit {
		return 0, fmt.Errorf("%w: a value is too long", ErrMalformed)
	}
	n, err := m.R.Read(p)
	m.Used += n
	return n, err
}
