package cli

import (
	"fmt"
	"strings"
)

// Man is the manual page, in man(7)'s macros.
func (p *Program) Man() string {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH %s 8 \"\" \"%s %s\"\n", roff(strings.ToUpper(p.Name)), roff(p.Name), roff(p.Version))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n.SH SYNOPSIS\n", roff(p.Name), roff(p.Summary))
	for _, c := range p.shown() {
		fmt.Fprintf(&b, ".B %s\n.br\n", roff(p.synopsis(c)))
	}
	fmt.Fprintf(&b, ".SH DESCRIPTION\n%s", paragraphs(p.Description))
	b.WriteString(".SH COMMANDS\n")
	for _, c := range p.shown() {
		fmt.Fprintf(&b, ".SS \"%s\"\n", roff(p.synopsis(c)))
		if c.Description != "" {
			b.WriteString(paragraphs(c.Description))
		} else {
			fmt.Fprintf(&b, "%s\n", roff(c.Summary))
		}
		for _, o := range c.options() {
			fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(strings.TrimSpace(o.name+" "+o.value)), roff(o.usage))
		}
	}
	writeTerms(&b, "EXIT STATUS", p.Status)
	writeTerms(&b, "FILES", p.Files)
	if p.SeeAlso != "" {
		fmt.Fprintf(&b, ".SH SEE ALSO\n%s\n", roff(p.SeeAlso))
	}
	return b.String()
}

func writeTerms(b *strings.Builder, title string, terms []Term) {
	if len(terms) == 0 {
		return
	}
	fmt.Fprintf(b, ".SH %s\n", title)
	for _, t := range terms {
		fmt.Fprintf(b, ".TP\n.B %s\n%s\n", roff(t.Name), roff(t.Text))
	}
}

func paragraphs(text string) string {
	var b strings.Builder
	for i, p := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if i > 0 {
			b.WriteString(".PP\n")
		}
		for line := range strings.Lines(p) {
			b.WriteString(roff(strings.TrimSpace(line)) + "\n")
		}
	}
	return b.String()
}

// roff escapes what troff would take for a command (groff_man(7)).
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}
