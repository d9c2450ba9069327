package main

import (
	"bytes"
	"fmt"
	"html"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"unicode/utf8"
)

// picture runs the demo and writes what the terminal shows to an SVG file.
func picture(file, bin, conf string) error {
	var shown bytes.Buffer
	cmd := exec.Command("/proc/self/exe", bin, conf)
	cmd.Stdout, cmd.Stderr = io.MultiWriter(os.Stdout, &shown), os.Stderr
	if err := cmd.Run(); err != nil {
		return err
	}
	return os.WriteFile(file, svg("$ make demo\n"+shown.String()), 0o644)
}

// The size of a character and of a line in the picture, in SVG's user units (CSS pixels).
const (
	charWidth  = 7.8 // 0.6 em of a font of 13, which monospaced fonts have
	lineHeight = 19
	margin     = 18
	maxColumns = 100
)

// The colours follow the reader's: a page in dark mode gets a dark terminal.
const style = `text { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; fill: #1f2328; white-space: pre }
rect { fill: #f6f8fa; stroke: #d0d7de }
.bold { font-weight: 700; fill: #0550ae }
.error { fill: #b35900 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } rect { fill: #161b22; stroke: #30363d } .bold { fill: #79c0ff } .error { fill: #ffa657 }
}`

// random is the demo's directory, which differs from run to run.
var random = regexp.MustCompile(`/[^\s"]*airgap-[0-9]+/`)

// svg draws lines of text; \x1b[1m makes a line bold.
func svg(text string) []byte {
	var lines []string
	columns := 0
	for line := range strings.Lines(random.ReplaceAllString(text, "/tmp/airgap/")) {
		for _, part := range wrap(strings.TrimRight(line, "\n")) {
			lines = append(lines, part)
			columns = max(columns, utf8.RuneCountInString(part))
		}
	}
	width, height := float64(columns)*charWidth+2*margin, len(lines)*lineHeight+2*margin
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %d" width="%.0f" height="%d" role="img">`+"\n", width, height, width, height)
	fmt.Fprintf(&b, "<title>The output of make demo</title>\n<style>\n%s\n</style>\n", style)
	fmt.Fprintf(&b, `<rect x=".5" y=".5" width="%.0f" height="%d" rx="8"/>`+"\n", width-1, height-1)
	inError := false
	for i, line := range lines {
		if line == "" {
			continue
		}
		class := ""
		if bold, found := strings.CutPrefix(line, "\x1b[1m"); found {
			class, line = ` class="bold"`, strings.TrimSuffix(bold, "\x1b[0m")
		} else if inError = strings.HasPrefix(line, "  Error:") || inError && strings.HasPrefix(line, "    "); inError {
			class = ` class="error"`
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d"%s xml:space="preserve">%s</text>`+"\n", margin, margin+(i+1)*lineHeight-6, class, html.EscapeString(line))
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// wrap breaks a line that is too long for the picture, at spaces.
func wrap(line string) []string {
	var lines []string
	for utf8.RuneCountInString(line) > maxColumns {
		cut := strings.LastIndexByte(line[:maxColumns], ' ')
		if cut <= 4 {
			break
		}
		lines = append(lines, line[:cut])
		line = "    " + line[cut+1:]
	}
	return append(lines, line)
}
