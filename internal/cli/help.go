package cli

import (
	"flag"
	"fmt"
	"io"
	"strings"
)

// option is a flag as it is shown.
type option struct {
	name  string // "--listen"
	value string // "address", or "" for a switch
	usage string
}

func (c *Command) options() []option {
	fs, _ := c.flags()
	var all []option
	fs.VisitAll(func(f *flag.Flag) {
		value, usage := flag.UnquoteUsage(f)
		if f.DefValue != "" && f.DefValue != "false" {
			usage += fmt.Sprintf(" (default %s)", f.DefValue)
		}
		all = append(all, option{"--" + f.Name, value, usage})
	})
	return all
}

// synopsis is the line that shows how a command is called.
func (p *Program) synopsis(c *Command) string {
	s := p.call(c)
	if len(c.options()) > 0 {
		s += " [flags]"
	}
	if c.Args != "" {
		s += " " + c.Args
	}
	return s
}

// shown are the commands of which help tells.
func (p *Program) shown() []*Command {
	var all []*Command
	for i := range p.Commands {
		if !p.Commands[i].Hidden {
			all = append(all, &p.Commands[i])
		}
	}
	return all
}

func (p *Program) help(args []string, stdout, stderr io.Writer) int {
	name := ""
	if len(args) > 0 {
		name = args[0]
	}
	if c := p.find(name); c != nil {
		_, _ = io.WriteString(stdout, p.commandHelp(c))
		return 0
	}
	if name != "" {
		return p.fail(stderr, "no help on %q%s", name, p.DidYouMean(name))
	}
	_, _ = io.WriteString(stdout, p.overview())
	return 0
}

// overview is the help of a program that needs a command.
func (p *Program) overview() string {
	var b strings.Builder
	p.writeUsage(&b)
	fmt.Fprintf(&b, "\n%s\n\ncommands:\n", p.Description)
	for _, c := range p.shown() {
		fmt.Fprintf(&b, "  %-12s %s\n", c.Name, c.Summary)
	}
	p.writeStatus(&b)
	fmt.Fprintf(&b, "\n%s help COMMAND tells more.\n", p.Name)
	return b.String()
}

func (p *Program) commandHelp(c *Command) string {
	var b strings.Builder
	if c.Name == "" {
		p.writeUsage(&b)
		fmt.Fprintf(&b, "\n%s\n", p.Description)
	} else {
		fmt.Fprintf(&b, "usage: %s\n", p.synopsis(c))
	}
	if c.Description != "" {
		fmt.Fprintf(&b, "\n%s\n", c.Description)
	}
	if c.Name == "" {
		p.writeStatus(&b)
	}
	if options := c.options(); len(options) > 0 {
		b.WriteString("\nflags:\n")
		for _, o := range options {
			fmt.Fprintf(&b, "  %s\n        %s\n", strings.TrimSpace(o.name+" "+o.value), o.usage)
		}
	}
	return b.String()
}

func (p *Program) writeUsage(b *strings.Builder) {
	lead := "usage: "
	for _, c := range p.shown() {
		fmt.Fprintf(b, "%s%s\n", lead, p.synopsis(c))
		lead = strings.Repeat(" ", len("usage: "))
	}
	fmt.Fprintf(b, "%s%s help [COMMAND]\n%s%s version\n", lead, p.Name, lead, p.Name)
}

func (p *Program) writeStatus(b *strings.Builder) {
	if len(p.Status) == 0 {
		return
	}
	b.WriteString("\nexit status:\n")
	for _, s := range p.Status {
		fmt.Fprintf(b, "  %s  %s\n", s.Name, s.Text)
	}
}
