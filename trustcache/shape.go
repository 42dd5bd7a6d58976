package trustcache

// tooDeep reports whether a JSON text nests deeper than maxDepth. It does not check
// that the text is JSON, and runs before anything that recurses.
func tooDeep(raw []byte) bool {
	depth := 0
	for i := 0; i < len(raw); {
		switch raw[i] {
		case '"':
			i = skipString(raw, i+1)
			continue
		case '{', '[':
			if depth++; depth > maxDepth {
				return true
			}
		case '}', ']':
			depth--
		}
		i++
	}
	return false
}

// numbersCanBeSigned reports whether canonical JSON allows every number of a JSON text.
// Others have more than one spelling, so that two parties would sign different bytes.
func numbersCanBeSigned(raw []byte) bool {
	for i := 0; i < len(raw); {
		switch c := raw[i]; {
		case c == '"':
			i = skipString(raw, i+1)
		case c == '-' || isDigit(c):
			end := i
			for end < len(raw) && isNumberByte(raw[end]) {
				end++
			}
			if !isCanonicalInteger(raw[i:end]) {
				return false
			}
			i = end
		default:
			i++
		}
	}
	return true
}

// skipString returns the index behind the closing quote of a string whose content starts at
// i.
func skipString(raw []byte, i int) int {
	for ; i < len(raw); i++ {
		switch raw[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return i
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isNumberByte(c byte) bool {
	return isDigit(c) || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E'
}

// isCanonicalInteger reports whether a number is an integer in the range of canonical JSON,
// -(2^53)+1 to 2^53-1, and canonically written.
func isCanonicalInteger(n []byte) bool {
	digits := n
	if n[0] == '-' {
		digits = n[1:]
		if len(digits) == 0 || digits[0] == '0' {
			return false
		}
	}
	if len(digits) > 16 || (len(digits) > 1 && digits[0] == '0') {
		return false
	}
	var v uint64
	for _, c := range digits {
		if !isDigit(c) {
			return false
		}
		v = v*10 + uint64(c-'0')
	}
	return v < 1<<53
}
