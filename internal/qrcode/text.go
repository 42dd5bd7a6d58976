package qrcode

import "strings"

// Text returns a code for a terminal: two rows of it are one of the terminal's, in black on
// white whatever the terminal's colours are.
func Text(content []byte) (string, error) {
	code, err := encode(content)
	if err != nil {
		return "", err
	}
	dark := func(x, y int) bool {
		x, y = x-quiet, y-quiet
		return x >= 0 && y >= 0 && x < code.Size && y < code.Size && code.Black(x, y)
	}
	size := code.Size + 2*quiet
	var out strings.Builder
	for y := 0; y < size; y += 2 {
		out.WriteString("\x1b[30;107m")
		for x := range size {
			switch upper, lower := dark(x, y), dark(x, y+1); {
			case upper && lower:
				out.WriteString("█")
			case upper:
				out.WriteString("▀")
			case lower:
				out.WriteString("▄")
			default:
				out.WriteString(" ")
			}
		}
		out.WriteString("\x1b[0m\n")
	}
	return out.String(), nil
}
