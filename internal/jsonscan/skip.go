package jsonscan

// skip reads any value at i, and returns the index behind it. It only looks for watched
// names.
func (s *scanner) skip(i int) (int, error) {
	if !s.slow {
		if end := s.quick(i); end >= 0 {
			return end, nil
		}
	}
	var err error
	floor := s.depth
	for {
		inside := false // i is before another value, not behind one
		switch s.b[i] {
		case '"':
			i, _, err = s.str(i + 1)
		case '{', '[':
			i, inside, err = s.enter(i)
		case 't', 'f', 'n':
			i, err = s.literal(i)
		default:
			i, err = s.number(i)
		}
		for err == nil && !inside {
			if s.depth == floor {
				return i, nil
			}
			i, inside, err = s.afterValue(i)
		}
		if err != nil {
			return i, err
		}
	}
}

// enter opens the container at i. It returns the index of its first value, or the index
// behind the container when it is empty.
func (s *scanner) enter(i int) (at int, inside bool, err error) {
	object := s.b[i] == '{'
	if i++; s.at(i) <= ' ' {
		if i, err = s.space(i); err != nil {
			return i, false, err
		}
	}
	if c := s.b[i]; c == '}' && object || c == ']' && !object {
		return i + 1, false, nil
	}
	if err = s.push(object); err != nil || !object {
		return i, true, err
	}
	i, err = s.skipName(i)
	return i, true, err
}

// afterValue reads from behind a value in a container to the next value, or to the end of the
// container.
func (s *scanner) afterValue(i int) (at int, inside bool, err error) {
	if s.at(i) <= ' ' {
		if i, err = s.space(i); err != nil {
			return i, false, err
		}
	}
	object := s.object()
	switch c := s.b[i]; {
	case c == ',':
		if i++; s.at(i) <= ' ' {
			if i, err = s.space(i); err != nil {
				return i, true, err
			}
		}
		if !object {
			return i, true, nil
		}
		i, err = s.skipName(i)
		return i, true, err
	case c == '}' && object, c == ']' && !object:
		s.depth--
		return i + 1, false, nil
	}
	return i, false, s.syntaxError(i, "expected a comma or the end of a container")
}

func (s *scanner) push(object bool) error {
	if s.depth+len(s.frames) >= MaxDepth {
		return ErrDepth
	}
	word, bit := s.depth>>6, uint64(1)<<(s.depth&63)
	if word == len(s.bits) {
		s.bits = append(s.bits, 0)
	}
	if object {
		s.bits[word] |= bit
	} else {
		s.bits[word] &^= bit
	}
	s.depth++
	return nil
}

// object reports whether the innermost container of skip is an object.
func (s *scanner) object() bool {
	top := s.depth - 1
	return s.bits[top>>6]>>(top&63)&1 == 1
}

// skipName reads the name of a member and the colon, and returns the index of its value.
func (s *scanner) skipName(i int) (int, error) {
	if s.b[i] != '"' {
		return i, s.syntaxError(i, "expected a name")
	}
	start := s.base + int64(i) + 1
	i, escaped, err := s.str(i + 1)
	if err != nil {
		return i, err
	}
	if s.watch.on {
		if from := start - s.base; from < 0 {
			s.flagged++ // no longer in the window: unknown
		} else if s.watch.hit(s.b[from:i-1], escaped) {
			s.flagged++
		}
	}
	return s.skipColon(i)
}

// skipColon reads the colon behind a name and returns the index of the value.
func (s *scanner) skipColon(i int) (int, error) {
	var err error
	if s.at(i) != ':' {
		if i, err = s.space(i); err != nil {
			return i, err
		}
		if s.b[i] != ':' {
			return i, s.syntaxError(i, "expected a colon")
		}
	}
	if i++; s.at(i) > ' ' {
		return i, nil
	}
	return s.space(i)
}

// watchedNames finds watched names quickly: most names fail at their first byte.
type watchedNames struct {
	on    bool
	first *[256]bool
	// sizes has, for each first byte, a bit for each number of bytes of a name that begins with it
	// and may be watched; the last is for all that are longer.
	sizes *[256]uint64
	names []watched
}

type watched struct {
	name   string
	prefix bool
}

func newWatchList(names []string) watchedNames {
	var w watchedNames
	for _, n := range names {
		entry := watched{name: n}
		if last := len(n) - 1; last > 0 && n[last] == '*' {
			entry = watched{name: n[:last], prefix: true}
		}
		if entry.name == "" {
			continue
		}
		if !w.on {
			w.on, w.first, w.sizes = true, new([256]bool), new([256]uint64)
		}
		sizes := uint64(1) << min(len(entry.name), 63)
		if entry.prefix {
			sizes = -sizes // and all longer ones
		}
		w.sizes[entry.name[0]] |= sizes
		w.first[entry.name[0]] = true
		w.names = append(w.names, entry)
	}
	return w
}

func (w *watchedNames) hit(name []byte, escaped bool) bool {
	if escaped {
		name = unescape(name)
	}
	if len(name) == 0 || !w.first[name[0]] {
		return false
	}
	for _, e := range w.names {
		if string(name) == e.name || e.prefix && len(name) > len(e.name) && string(name[:len(e.name)]) == e.name {
			return true
		}
	}
	return false
}
