package containerd

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// byHand finds the file that has one of the handlers without being ours: the node was
// set up after the guide. What is the same as ours is taken over, and what is not is
// refused with the difference.
func (p *Plan) byHand(files []*File, want Want) (*File, error) {
	var found *File
	for _, h := range p.Handlers {
		if !p.before.HasHandler(h) {
			continue
		}
		for _, f := range files {
			if f.runtimes()[h] == nil {
				continue
			}
			base := p.before.runtime(p.before.Base(want.Handlers[h]))
			if d := diff(effective(handlerTable(base, want.ConfDir)), effective(p.before.runtime(h)), func([]string) bool { return false }); len(d) > 0 {
				return nil, fmt.Errorf("containerd's config has a handler %q that none-install did not write, and that is different (was to be, is): %s; make it the same, or take it out of %s", h, strings.Join(d, "; "), f.Path)
			}
			if found != nil && found != f {
				return nil, fmt.Errorf("containerd's config has handlers of ours both in %s and in %s, and none-install did not write them: take one out", found.Path, f.Path)
			}
			found = f
		}
	}
	return found, nil
}

// runtimes are the handlers that a file names, outside of our block.
func (f *File) runtimes() tree {
	for _, s := range []string{sectionV1, sectionV2, sectionV3} {
		if t := at(f.parsed, "plugins", s, "containerd", "runtimes"); len(t) > 0 {
			return t
		}
	}
	return nil
}

// takeOver cuts the handlers out of a file: with their comments where they are as
// the guide has them, or else the tables alone. A file that then says nothing any
// more is ours as a whole.
func (p *Plan) takeOver(f *File, shipped [][]byte) error {
	whole := f.Rest
	for _, text := range shipped {
		whole = bytes.Replace(whole, text, nil, 1)
	}
	var err error
	for _, rest := range [][]byte{cutTables(whole, p.Handlers), cutTables(f.Rest, p.Handlers)} {
		var left tree
		if left, err = cutClean(f, rest, p.Handlers); err == nil {
			says := maps.Clone(left)
			delete(says, "version")
			p.Target, p.rest, p.parsed = f, rest, left
			p.Whole = f != p.main && len(says) == 0
			return nil
		}
	}
	return fmt.Errorf("%s: take the handler %s out of it by hand: %w", f.Path, strings.Join(p.Handlers, ", "), err)
}

// cutClean says whether rest is the file without the handlers, and nothing else.
func cutClean(f *File, rest []byte, handlers []string) (tree, error) {
	left, err := parse(rest)
	if err != nil {
		return nil, err
	}
	differences := diff(f.parsed, left, func(path []string) bool {
		ours := len(path) == 5 && path[2] == "containerd" && path[3] == "runtimes" && slices.Contains(handlers, path[4])
		return ours || len(left) == 0 && len(path) == 1 && path[0] == "version"
	})
	for _, h := range handlers {
		if (&File{parsed: left}).runtimes()[h] != nil {
			differences = append(differences, "the handler "+h+" would stay")
		}
	}
	if len(differences) > 0 {
		return nil, errors.New(strings.Join(differences, "; "))
	}
	return left, nil
}

// cutTables cuts the tables of the handlers, and those in them, out of a config.
func cutTables(text []byte, handlers []string) []byte {
	var out []byte
	cutting := false
	for line := range bytes.Lines(text) {
		if header := bytes.TrimSpace(line); bytes.HasPrefix(header, []byte("[")) {
			cutting = slices.ContainsFunc(handlers, func(h string) bool { return isHandlerTable(header, h) })
		}
		if !cutting {
			out = append(out, line...)
		}
	}
	return out
}

// isHandlerTable reads a table's header as TOML does.
func isHandlerTable(header []byte, handler string) bool {
	t, err := parse(header)
	if err != nil {
		return false
	}
	for _, s := range []string{sectionV1, sectionV2, sectionV3} {
		if at(t, "plugins", s, "containerd", "runtimes", handler) != nil {
			return true
		}
	}
	return false
}
