// Package docs_test reads the documentation as a reader's browser would: every
// link leads somewhere, and a long page starts with its contents.
package docs_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// longPage is the number of lines from which a page starts with its contents.
const longPage = 150

func TestLinks(t *testing.T) {
	for _, page := range pages(t) {
		for _, link := range links(t, page) {
			if err := follow(t, page, link); err != nil {
				t.Errorf("%s: link %q: %v", page, link, err)
			}
		}
	}
}

// TestLinksAreFollowed is the control: what is wrong is found.
func TestLinksAreFollowed(t *testing.T) {
	page := "../README.md"
	for link, ok := range map[string]bool{
		"docs/security.md":            true,
		"docs/security.md#faults":     true,
		"docs/no-such-page.md":        false,
		"docs/security.md#no-heading": false,
		"#no-heading":                 false,
	} {
		if err := follow(t, page, link); (err == nil) != ok {
			t.Errorf("follow %s: %v", link, err)
		}
	}
}

// TestLongPagesHaveContents: go test ./docs -update writes them.
func TestLongPagesHaveContents(t *testing.T) {
	for _, page := range pages(t) {
		text := read(t, page)
		if strings.Count(text, "\n") <= longPage || filepath.Base(page) == "CHANGELOG.md" {
			continue
		}
		want := contents(text)
		title, rest, _ := strings.Cut(text, "\n\n")
		if strings.HasPrefix(rest, want) {
			continue
		}
		if !*update {
			t.Errorf("%s has over %d lines, and does not start with its contents: run go test ./docs -update", page, longPage)
			continue
		}
		rest = strings.TrimLeft(oldContents.ReplaceAllString(rest, ""), "\n")
		if err := os.WriteFile(page, []byte(title+"\n\n"+want+"\n"+rest), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

var (
	update      = flag.Bool("update", false, "write the contents of long pages")
	oldContents = regexp.MustCompile(`\A(- \[.*\]\(#.*\)\n)+`)
)

// contents is a list of links to the sections of a page.
func contents(text string) string {
	var b strings.Builder
	for _, heading := range headings(text, 2) {
		fmt.Fprintf(&b, "- [%s](#%s)\n", heading, anchor(heading))
	}
	return b.String()
}

// pages are the Markdown files of the repository, relative to this folder.
func pages(t *testing.T) []string {
	t.Helper()
	var list []string
	for _, pattern := range []string{"*.md", "../*.md", "../test/*.md", "../deploy/*.md", "../deploy/*/*.md", "../deploy/*/*/*.md", "../.github/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, found...)
	}
	if len(list) < 10 {
		t.Fatalf("only these pages: %v", list)
	}
	return list
}

var (
	fence  = regexp.MustCompile("(?ms)^```.*?^```$")
	code   = regexp.MustCompile("`[^`\n]*`")
	inline = regexp.MustCompile(`\]\(([^)\s]+)\)`)
)

// links are the targets of a page's links, outside of code.
func links(t *testing.T, page string) []string {
	t.Helper()
	text := code.ReplaceAllString(fence.ReplaceAllString(read(t, page), ""), "")
	var list []string
	for _, m := range inline.FindAllStringSubmatch(text, -1) {
		list = append(list, m[1])
	}
	return list
}

// follow looks for what a link names in this repository. It asks no other machine.
func follow(t *testing.T, page, link string) error {
	t.Helper()
	if strings.Contains(link, "://") || strings.HasPrefix(link, "mailto:") {
		return nil
	}
	path, heading, _ := strings.Cut(link, "#")
	target := page
	if path != "" {
		target = filepath.Join(filepath.Dir(page), path)
	}
	if _, err := os.Stat(target); err != nil {
		return err
	}
	if heading == "" {
		return nil
	}
	var anchors []string
	for level := 1; level <= 6; level++ {
		for _, h := range headings(read(t, target), level) {
			anchors = append(anchors, anchor(h))
		}
	}
	if !slices.Contains(anchors, heading) {
		return fmt.Errorf("%s has no heading #%s", target, heading)
	}
	return nil
}

// headings are those of one level, outside of code.
func headings(text string, level int) []string {
	var list []string
	for line := range strings.Lines(fence.ReplaceAllString(text, "")) {
		if title, ok := strings.CutPrefix(line, strings.Repeat("#", level)+" "); ok {
			list = append(list, strings.TrimSpace(title))
		}
	}
	return list
}

var unlinked = regexp.MustCompile(`[^\p{L}\p{N} _-]`)

// anchor is the fragment that GitHub gives to a heading.
func anchor(heading string) string {
	return strings.ReplaceAll(unlinked.ReplaceAllString(strings.ToLower(heading), ""), " ", "-")
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
