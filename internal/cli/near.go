package cli

import (
	"flag"
	"strings"
)

// DidYouMean names the command that a word is most likely meant to be, as the
// end of a sentence, or is empty.
func (p *Program) DidYouMean(word string) string {
	names := []string{"help", "version"}
	for _, c := range p.Commands {
		if c.Name != "" {
			names = append(names, c.Name)
		}
	}
	return didYouMean(word, "", names)
}

func nearFlag(fs *flag.FlagSet, err error) string {
	_, word, ok := strings.Cut(err.Error(), "flag provided but not defined: -")
	if !ok {
		return ""
	}
	var names []string
	fs.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
	return didYouMean(word, "--", names)
}

func didYouMean(word, prefix string, names []string) string {
	best, least := "", 3 // two mistakes, and fewer than half of the letters
	for _, n := range names {
		if d := distance(word, n); d < least && 2*d < len(n) {
			best, least = n, d
		}
	}
	if best == "" {
		return ""
	}
	return " (did you mean " + prefix + best + "?)"
}

// distance counts the letters to insert, delete, replace or swap with the next
// one that make a into b (optimal string alignment).
func distance(a, b string) int {
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}
