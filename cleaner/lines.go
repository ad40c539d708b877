package cleaner

import (
	"bytes"
	"regexp"
)

// Texts are edited line by line: what does not match stays byte for byte, with the end
// that its line has, or has not.

// eachLine gives every line, its end included, to change, and puts together what that
// returns; nil drops the line.
func eachLine(text []byte, change func(line []byte) []byte) []byte {
	out := make([]byte, 0, len(text))
	for line := range bytes.Lines(text) {
		out = append(out, change(line)...)
	}
	return out
}

// dropLines drops the lines for which drop is true; it gets them without their end.
func dropLines(drop func(line []byte) bool) func([]byte) []byte {
	return func(text []byte) []byte {
		return eachLine(text, func(line []byte) []byte {
			if drop(bytes.TrimRight(line, "\r\n")) {
				return nil
			}
			return line
		})
	}
}

// dropMatching drops the lines that match.
func dropMatching(re *regexp.Regexp) func([]byte) []byte {
	return dropLines(re.Match)
}

// dropBlock drops the lines from one that contains begin to the next that contains
// end, both included. A block without its end stays: where it ends nobody knows.
func dropBlock(begin, end string) func([]byte) []byte {
	return func(text []byte) []byte {
		var out, block []byte
		inside := false
		for line := range bytes.Lines(text) {
			switch {
			case inside:
				block = append(block, line...)
				if bytes.Contains(line, []byte(end)) {
					inside, block = false, nil
				}
			case bytes.Contains(line, []byte(begin)):
				inside, block = true, append(block, line...)
			default:
				out = append(out, line...)
			}
		}
		return append(out, block...)
	}
}

// chain makes one change of several, in order.
func chain(changes ...func([]byte) []byte) func([]byte) []byte {
	return func(text []byte) []byte {
		for _, change := range changes {
			text = change(text)
		}
		return text
	}
}

// appendLine adds a line that is not there yet.
func appendLine(line string) func([]byte) []byte {
	return func(text []byte) []byte {
		for have := range bytes.Lines(text) {
			if string(bytes.TrimRight(have, "\r\n")) == line {
				return text
			}
		}
		if len(text) > 0 && text[len(text)-1] != '\n' {
			text = append(text, '\n')
		}
		return append(append(text, line...), '\n')
	}
}
