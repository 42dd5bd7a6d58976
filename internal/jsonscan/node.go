package jsonscan

import (
	"bytes"
	"encoding/json"
)

// Node is a place in a document, with what to report of the values found there. Nodes form
// a graph: [Node.Down] makes paths, [Node.Link] may close a cycle for things that nest. A
// graph is built first and only read by scans, which may then be concurrent.
type Node struct {
	id      int
	report  bool
	record  bool
	capture bool
	noted   bool
	note    int
	quick   *program // of a record
	// programs are those that the node is a part of.
	programs []*program

	exact  []member
	prefix []member
	any    *Node
	elem   *Node
}

type member struct {
	name string
	node *Node
}

type stepKind int

const (
	stepKey stepKind = iota + 1
	stepPrefix
	stepAny
	stepElem
)

// Step leads from a value to a value inside it.
type Step struct {
	kind stepKind
	name string
}

// Key returns the step to the member of an object with this name.
func Key(name string) Step { return Step{stepKey, name} }

// Prefix returns the step to every member of an object whose name begins so and is not a
// [Key] of the node.
func Prefix(name string) Step { return Step{stepPrefix, name} }

// Any returns the step to every member of an object that no [Key] or [Prefix] of the node
// names. The names met on the way are kept for [Value.Name].
func Any() Step { return Step{kind: stepAny} }

// Elem returns the step to every element of an array.
func Elem() Step { return Step{kind: stepElem} }

// NewNode returns a node without reports or steps.
func NewNode() *Node { return &Node{} }

// Report asks for the values at this node under an ID of the caller's choice. With
// capture their bytes are reported too.
func (n *Node) Report(id int, capture bool) *Node {
	n.changed()
	n.id, n.report, n.capture = id, true, capture
	return n
}

// Record is like [Node.Report] with capture, for objects of which some values inside matter:
// those with a [Node.Note] come along, see [Value.Noted]. It is called last, when everything
// below the node is there. There are no records in records.
func (n *Node) Record(id int) *Node {
	n.Report(id, true)
	n.record = true
	if n.quick = compile(n, maxLevels); n.quick != nil {
		n.quick.claim(n)
	}
	return n
}

// Note asks for the values at this node along with the record that they are in, under a number
// below [MaxNotes]. No steps lead on from it.
func (n *Node) Note(number int) *Node {
	n.changed()
	n.noted, n.note = true, number
	return n
}

// changed ends the use of programs that were made before.
func (n *Node) changed() {
	for _, p := range n.programs {
		p.stale = true
	}
}

// leaf reports whether no steps lead on.
func (n *Node) leaf() bool {
	return n.any == nil && n.elem == nil && len(n.exact) == 0 && len(n.prefix) == 0
}

// Down follows the steps, making nodes where there are none, and returns the last.
func (n *Node) Down(steps ...Step) *Node {
	for _, s := range steps {
		next := n.child(s)
		if next == nil {
			next = NewNode()
			n.Link(s, next)
		}
		n = next
	}
	return n
}

// Link makes a step lead to an existing node, in place of where it led before.
func (n *Node) Link(s Step, to *Node) {
	n.changed()
	switch s.kind {
	case stepKey:
		n.exact = linked(n.exact, s.name, to)
	case stepPrefix:
		n.prefix = linked(n.prefix, s.name, to)
	case stepAny:
		n.any = to
	case stepElem:
		n.elem = to
	}
}

func linked(list []member, name string, to *Node) []member {
	for i := range list {
		if list[i].name == name {
			list[i].node = to
			return list
		}
	}
	return append(list, member{name, to})
}

func (n *Node) child(s Step) *Node {
	var list []member
	switch s.kind {
	case stepKey:
		list = n.exact
	case stepPrefix:
		list = n.prefix
	case stepAny:
		return n.any
	case stepElem:
		return n.elem
	}
	for _, m := range list {
		if m.name == s.name {
			return m.node
		}
	}
	return nil
}

// object reports whether the node has steps to members of an object.
func (n *Node) object() bool {
	return n != nil && (n.any != nil || len(n.exact) > 0 || len(n.prefix) > 0)
}

// match returns the node of a member by its name (unescaped), and whether an [Any] step
// leads to it.
func (n *Node) match(name []byte) (to *Node, wild bool) {
	for i := range n.exact {
		if string(name) == n.exact[i].name {
			return n.exact[i].node, false
		}
	}
	for i := range n.prefix {
		if p := n.prefix[i].name; len(name) >= len(p) && string(name[:len(p)]) == p {
			return n.prefix[i].node, false
		}
	}
	return n.any, n.any != nil
}

// unescape returns the text of a raw name (without its quotes) that contains a backslash.
func unescape(raw []byte) []byte {
	quoted := make([]byte, 0, len(raw)+2)
	quoted = append(quoted, '"')
	quoted = append(quoted, raw...)
	quoted = append(quoted, '"')
	var s string
	if json.Unmarshal(quoted, &s) != nil {
		return raw
	}
	return []byte(s)
}

// Text returns the text of a raw string, quotes included; it points into raw when there are
// no escapes. Invalid escapes of surrogates become U+FFFD.
func Text(raw []byte) []byte {
	if len(raw) < 2 {
		return nil
	}
	inner := raw[1 : len(raw)-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		return inner
	}
	return unescape(inner)
}
