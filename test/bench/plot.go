package main

import (
	"bytes"
	"fmt"
	"html"
	"os"
	"slices"
)

// The plot is written by hand: a few bars are not worth a plotting library.
const (
	plotWidth  = 760
	plotLeft   = 190 // where the bars begin
	plotRight  = 90  // room for the figures behind them
	plotBar    = 18
	plotGap    = 6
	plotGroup  = 30 // headline of a group
	plotMargin = 16
)

var plotColour = map[string]string{
	none: "#1f6f54", upstream: "#8899aa", bridge: "#c08a3e", floor: "#b9c2ca", empty: "#d5dbe0",
}

// writePlot draws what one exec costs: a bar for the CPU time, a line to its
// ninetieth percentile, and a mark for the wall time's median. bridge goes off the
// scale, and says by how much: drawn to scale, it would flatten the rest.
func (b *bench) writePlot(file string) error {
	if len(b.Execs) == 0 {
		return nil
	}
	longest := 0.0
	for _, e := range b.Execs {
		if e.Program != bridge {
			longest = max(longest, e.CPU.P90, e.Wall.Median)
		}
	}
	scale := (plotWidth - plotLeft - plotRight) / longest

	var w bytes.Buffer
	y := plotMargin
	say := func(x, y int, style, text string) {
		fmt.Fprintf(&w, `<text x="%d" y="%d" %s>%s</text>`+"\n", x, y, style, html.EscapeString(text))
	}
	say(plotMargin, y+14, `font-weight="bold"`, "One exec: CPU time, user and system (median, line to p90)")
	say(plotMargin, y+32, `fill="#555"`, fmt.Sprintf("mark: wall time, median; %d execs of each; Linux %s, %d CPUs", b.Execs[0].N, b.Host.Kernel, b.Host.CPUs))
	y += 44
	for _, command := range []string{"ADD", "CHECK", "DEL"} {
		say(plotMargin, y+20, `font-weight="bold"`, command)
		y += plotGroup
		for _, program := range []string{none, upstream, bridge, floor, empty} {
			i := slices.IndexFunc(b.Execs, func(e Exec) bool {
				return e.Program == program && (e.Command == command || e.Command == "" && command == "ADD")
			})
			if i < 0 {
				continue
			}
			e := b.Execs[i]
			end := plotLeft + int(scale*min(e.CPU.Median, longest))
			middle := y + plotBar/2
			say(plotLeft-8, middle+5, `text-anchor="end"`, label(program))
			fmt.Fprintf(&w, `<rect x="%d" y="%d" width="%d" height="%d" fill="%s"/>`+"\n", plotLeft, y, end-plotLeft, plotBar, plotColour[program])
			figure := fmt.Sprintf("%.0f µs", e.CPU.Median)
			if e.CPU.Median > longest {
				// A gap in the bar says that it is cut off.
				fmt.Fprintf(&w, `<path d="M%d %d l6 -%d l6 0 l-6 %d z" fill="#fff"/>`+"\n", end-30, y+plotBar, plotBar, plotBar)
			} else {
				p90, wall := plotLeft+int(scale*e.CPU.P90), plotLeft+int(scale*e.Wall.Median)
				fmt.Fprintf(&w, `<path d="M%d %d H%d" stroke="#333"/><path d="M%d %d v%d" stroke="#b03030" stroke-width="2"/>`+"\n",
					end, middle, p90, wall, y, plotBar)
				end = max(p90, wall)
			}
			say(end+8, middle+5, "", figure)
			y += plotBar + plotGap
		}
	}
	y += plotMargin

	svg := fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13" fill="#222">
<rect width="100%%" height="100%%" fill="#fff"/>
%s</svg>
`, plotWidth, y, w.Bytes())
	return os.WriteFile(file, []byte(svg), 0o644)
}
