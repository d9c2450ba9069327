package cli

import (
	"fmt"
	"io"
	"strings"
)

func (p *Program) completion(args []string, stdout, stderr io.Writer) int {
	if len(args) == 1 {
		switch args[0] {
		case "bash":
			_, _ = io.WriteString(stdout, p.Bash())
			return 0
		case "zsh":
			_, _ = io.WriteString(stdout, p.Zsh())
			return 0
		}
	}
	return p.fail(stderr, "completion takes bash or zsh")
}

// words are what can be the first argument.
func (p *Program) words() []string {
	var all []string
	for _, c := range p.shown() {
		if c.Name != "" {
			all = append(all, c.Name)
		}
		if c.Name == "" {
			all = append(all, c.Words...)
		}
	}
	return append(all, "help", "version")
}

// Bash is a completion for bash, which takes a directory where a flag does.
func (p *Program) Bash() string {
	var b strings.Builder
	name := "_" + strings.ReplaceAll(p.Name, "-", "_")
	fmt.Fprintf(&b, "# bash completion for %s, made by: %s completion bash\n", p.Name, p.Name)
	fmt.Fprintf(&b, "%s() {\n\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} flags words=\n", name)
	b.WriteString("\tcase $prev in\n")
	fmt.Fprintf(&b, "\t%s) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- \"$cur\"); return ;;\n", strings.Join(p.directories(), "|"))
	b.WriteString("\tesac\n\tcase ${COMP_WORDS[1]} in\n")
	for _, c := range p.shown() {
		if c.Name != "" {
			fmt.Fprintf(&b, "\t%s) flags='%s' words='%s' ;;\n", c.Name, names(c), strings.Join(c.Words, " "))
		}
	}
	fmt.Fprintf(&b, "\thelp) flags= words='%s' ;;\n", strings.Join(p.words(), " "))
	own := "--help --version"
	if c := p.find(""); c != nil {
		own = names(c) + " --version"
	}
	fmt.Fprintf(&b, "\t*) flags='%s'; [ \"$COMP_CWORD\" -gt 1 ] || words='%s' ;;\n\tesac\n", own, strings.Join(p.words(), " "))
	b.WriteString("\tcase $cur in\n\t-*) mapfile -t COMPREPLY < <(compgen -W \"$flags\" -- \"$cur\") ;;\n")
	b.WriteString("\t*) mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\") ;;\n\tesac\n}\n")
	fmt.Fprintf(&b, "complete -o default -F %s %s\n", name, p.Name)
	return b.String()
}

// Zsh is a completion for zsh.
func (p *Program) Zsh() string {
	var b strings.Builder
	fmt.Fprintf(&b, "#compdef %s\n# made by: %s completion zsh\n\n", p.Name, p.Name)
	b.WriteString("local context state state_descr line\ntypeset -A opt_args\n")
	own := ""
	if c := p.find(""); c != nil {
		own = zshFlags(c)
	}
	fmt.Fprintf(&b, "_arguments -S '--version[print the version]'%s '1: :->command' '*:: :->args'\ncase $state in\ncommand)\n\tlocal -a commands=(", own)
	for _, c := range p.shown() {
		if c.Name != "" {
			fmt.Fprintf(&b, "'%s:%s' ", c.Name, zshText(c.Summary))
		}
	}
	b.WriteString("'help:tell about a command' 'version:print the version')\n\t_describe command commands\n\t_files\n\t;;\nargs)\n\tcase $words[1] in\n")
	for _, c := range p.shown() {
		if c.Name != "" {
			fmt.Fprintf(&b, "\t%s) _arguments -S%s '*: :(%s)' ;;\n", c.Name, zshFlags(c), strings.Join(c.Words, " "))
		}
	}
	b.WriteString("\t*) _files ;;\n\tesac\n\t;;\nesac\n")
	return b.String()
}

func zshFlags(c *Command) string {
	var b strings.Builder
	for _, o := range c.options() {
		value := ""
		if o.value != "" {
			value = ":" + o.value + ":"
			if isDirectory(o) {
				value += "_directories"
			}
		}
		fmt.Fprintf(&b, " '*%s[%s]%s'", o.name, zshText(o.usage), value)
	}
	return b.String()
}

// zshText keeps an explanation from being read as a part of the specification.
func zshText(s string) string {
	return strings.NewReplacer("'", "", "[", "(", "]", ")", ":", "\\:").Replace(s)
}

func names(c *Command) string {
	var all []string
	for _, o := range c.options() {
		all = append(all, o.name)
	}
	return strings.Join(append(all, "--help"), " ")
}

func isDirectory(o option) bool { return o.value == "directory" }

// directories are the flags that take a directory.
func (p *Program) directories() []string {
	seen := map[string]bool{}
	all := []string{"--no-such-flag"} // a case needs a pattern
	for _, c := range p.shown() {
		for _, o := range c.options() {
			if isDirectory(o) && !seen[o.name] {
				seen[o.name] = true
				all = append(all, o.name)
			}
		}
	}
	return all
}
