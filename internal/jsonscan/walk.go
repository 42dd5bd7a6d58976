package jsonscan

// valuePlace is the place of the next value of walk, and its node.
type valuePlace struct {
	node   *Node // nil: nothing
	member int64
	sep    int64
	index  int
	inside int64
	wild   bool // its name is in wildName
}

// frame is a container that walk is inside of.
type frame struct {
	valuePlace
	object  bool
	pinned  bool // its bytes are being captured
	start   int64
	inner   int64 // offset behind the opening bracket
	count   int
	flagged uint64 // scanner.flagged at its beginning
	name    []byte // valid when wild
}

// walk reads the value at i, following the graph from root, and returns the index behind
// it.
func (s *scanner) walk(i int, root *Node) (int, error) {
	at := valuePlace{node: root, member: -1, sep: -1}
	var inside bool
	var err error
	for {
		object := s.b[i] == '{'
		end := no
		if object && !s.slow && at.node.isQuick() {
			end, err = s.whole(i, &at)
		}
		switch {
		case end >= 0:
			i, inside = end, false
		case object && at.node.object() || s.b[i] == '[' && at.node != nil && at.node.elem != nil:
			i, inside, err = s.begin(i, object, &at)
		default:
			inside = false
			i, err = s.single(i, &at)
		}
		for err == nil && !inside {
			if len(s.frames) == 0 {
				return i, nil
			}
			i, inside, err = s.next(i, &at)
		}
		if err != nil {
			return i, err
		}
	}
}

// isQuick reports whether the objects at a node are records that can be read in the quick way.
func (n *Node) isQuick() bool { return n != nil && n.quick != nil && !n.quick.stale }

// whole reads and reports the record at i in the quick way, and returns the index behind it.
func (s *scanner) whole(i int, at *valuePlace) (int, error) {
	flagged := s.flagged
	end, count := s.quickRecord(i, at.node.quick)
	if end < 0 {
		return no, nil
	}
	s.wild = at.wild
	s.report(at, end, s.base+int64(i), true, flagged)
	s.value.Kind, s.value.Count = '{', count
	if s.value.Raw == nil { // it is larger than what is captured
		s.setApart()
	}
	return end, s.visit(&s.value)
}

// begin enters the container at i. It returns the index of its first value and puts the
// value's place into at, or, when it is empty, the index behind the container.
func (s *scanner) begin(i int, object bool, at *valuePlace) (next int, inside bool, err error) {
	if len(s.frames) >= maxFrames {
		return i, false, ErrDepth
	}
	f := s.pushFrame()
	start := s.base + int64(i)
	name := f.name[:0]
	if at.wild {
		name = append(name, s.wildName...)
	}
	*f = frame{
		valuePlace: *at, object: object, start: start, inner: start + 1, flagged: s.flagged,
		pinned: at.node.report && at.node.capture, name: name,
	}
	if at.node.record {
		s.clearNotes(start)
	}
	if i++; s.at(i) <= ' ' {
		if i, err = s.space(i); err != nil {
			return i, false, err
		}
	}
	if c := s.b[i]; c == '}' && object || c == ']' && !object {
		return i + 1, false, s.end(i + 1)
	}
	i, err = s.child(i, -1, at)
	return i, true, err
}

// pushFrame adds a frame, keeping the name buffers of frames used before.
func (s *scanner) pushFrame() *frame {
	if n := len(s.frames); n < cap(s.frames) {
		s.frames = s.frames[:n+1]
	} else {
		s.frames = append(s.frames, frame{})
	}
	return &s.frames[len(s.frames)-1]
}

// next reads from behind a value in the innermost frame to the next value.
func (s *scanner) next(i int, at *valuePlace) (next int, inside bool, err error) {
	if s.at(i) <= ' ' {
		if i, err = s.space(i); err != nil {
			return i, false, err
		}
	}
	object := s.frames[len(s.frames)-1].object
	switch c := s.b[i]; {
	case c == ',':
		sep := s.base + int64(i)
		if i++; s.at(i) <= ' ' {
			if i, err = s.space(i); err != nil {
				return i, true, err
			}
		}
		i, err = s.child(i, sep, at)
		return i, true, err
	case c == '}' && object, c == ']' && !object:
		return i + 1, false, s.end(i + 1)
	}
	return i, false, s.syntaxError(i, "expected a comma or the end of a container")
}

// child reads the name of the next value in the innermost frame, if it has one, and returns
// the index of the value.
func (s *scanner) child(i int, sep int64, at *valuePlace) (int, error) {
	f := &s.frames[len(s.frames)-1]
	*at = valuePlace{node: f.node.elem, member: -1, sep: sep, index: f.count, inside: f.inner}
	f.count++
	if !f.object {
		return i, nil
	}
	if s.b[i] != '"' {
		return i, s.syntaxError(i, "expected a name")
	}
	at.node, at.member = nil, s.base+int64(i)
	s.name = at.member
	i, escaped, err := s.str(i + 1)
	if err != nil {
		return i, err
	}
	if s.name < 0 { // longer than any watched name
		s.flagged++
		return s.skipColon(i)
	}
	name := s.b[s.name-s.base+1 : i-1]
	s.name = -1
	if escaped {
		name = unescape(name)
	}
	if s.watch.on && len(name) > 0 && s.watch.first[name[0]] && s.watch.hit(name, false) {
		s.flagged++
	}
	if at.node, at.wild = f.node.match(name); at.wild {
		s.wildName = append(s.wildName[:0], name...)
	}
	return s.skipColon(i)
}

// end reports and leaves the innermost frame, which ends before index i.
func (s *scanner) end(i int) error {
	f := &s.frames[len(s.frames)-1]
	var err error
	if f.node.report {
		s.wild = false
		s.report(&f.valuePlace, i, f.start, f.pinned, f.flagged)
		s.value.Kind = '['
		if f.object {
			s.value.Kind = '{'
		}
		s.value.Count = f.count
		if f.node.record && f.pinned && s.value.Raw == nil { // it is larger than what is captured
			s.setApart()
		}
		err = s.visit(&s.value)
	}
	s.frames = s.frames[:len(s.frames)-1]
	return err
}

// single reads the value at i as a whole and reports it when its node asks for it.
func (s *scanner) single(i int, at *valuePlace) (int, error) {
	if at.node == nil || !at.node.report && !at.node.noted {
		return s.skip(i)
	}
	start, kind, flagged := s.base+int64(i), s.b[i], s.flagged
	if at.node.capture || at.node.noted {
		s.leaf = start
	}
	if at.node.record {
		s.clearNotes(start)
	}
	i, err := s.skip(i)
	if err != nil {
		return i, err
	}
	if at.node.noted {
		s.noteSingle(at.node.note, i, kind, start)
	}
	if !at.node.report {
		s.leaf = -1
		return i, nil
	}
	s.wild = at.wild
	s.report(at, i, start, s.leaf >= 0, flagged)
	s.leaf = -1
	s.value.Kind = kind
	return i, s.visit(&s.value)
}

// report fills s.value for a value that ends before index i.
func (s *scanner) report(at *valuePlace, i int, start int64, pinned bool, flagged uint64) {
	end := s.base + int64(i)
	s.value = Value{
		ID: at.node.id, Start: start, End: end,
		Member: at.member, Sep: at.sep, Index: at.index, Inside: at.inside,
		Flagged: s.flagged != flagged, s: s,
	}
	if pinned && end-start <= int64(s.max) {
		s.value.Raw = s.b[start-s.base : i : i]
	}
}
