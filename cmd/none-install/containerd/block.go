package containerd

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// The lines around what none-install adds to a file that another program owns. What is
// between them is replaced as a whole and can be taken out again without knowing
// anything else about the file, whatever was changed around it since.
const (
	blockBegin = "# BEGIN cni-none: written by none-install; `none-install uninstall` takes it out\n"
	// A file that did not end in a line break gets one before the block, and the
	// block says so, so that taking it out gives back the same bytes.
	blockBeginJoined = "\n# BEGIN cni-none (and the line break before this): written by none-install; `none-install uninstall` takes it out\n"
	blockEnd         = "# END cni-none\n"
)

// strip takes the block out of text: what the file was before, byte for byte.
func strip(text []byte) (rest []byte, found bool, err error) {
	begin := blockBeginJoined
	at := bytes.Index(text, []byte(begin))
	if at < 0 {
		begin = blockBegin
		if at = bytes.Index(text, []byte(begin)); at < 0 {
			return text, false, nil
		}
	}
	n := bytes.Index(text[at:], []byte(blockEnd))
	if n < 0 {
		return nil, true, fmt.Errorf("the block that begins with %q has no line %q: it was edited; take it out by hand",
			strings.TrimSpace(begin), strings.TrimSpace(blockEnd))
	}
	rest = append(slices.Clone(text[:at]), text[at+n+len(blockEnd):]...)
	if _, again, _ := strip(rest); again {
		return nil, true, fmt.Errorf("it has two blocks of none-install's: take one out by hand")
	}
	return rest, true, nil
}

// appendBlock adds the block to text that has none.
func appendBlock(text []byte, block string) []byte {
	begin := blockBegin
	if len(text) > 0 && text[len(text)-1] != '\n' {
		begin = blockBeginJoined
	}
	return append(slices.Clone(text), begin+block+blockEnd...)
}
