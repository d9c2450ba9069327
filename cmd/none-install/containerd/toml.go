package containerd

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// tree is a TOML document, or a table of it.
type tree = map[string]any

func parse(text []byte) (tree, error) {
	t := tree{}
	if err := toml.Unmarshal(text, &t); err != nil {
		return nil, err
	}
	return t, nil
}

// at walks down tables; nil where one is missing.
func at(t tree, keys ...string) tree {
	for _, k := range keys {
		t, _ = t[k].(tree)
	}
	return t
}

// emit writes one table under its full name, its values first and then the
// tables in it, never a table above it: those may exist already, and TOML allows
// a table's header once.
func emit(b *strings.Builder, name string, t tree) error {
	fmt.Fprintf(b, "[%s]\n", name)
	keys := slices.Sorted(maps.Keys(t))
	var tables []string
	for _, k := range keys {
		if _, ok := t[k].(tree); ok {
			tables = append(tables, k)
			continue
		}
		line, err := toml.Marshal(tree{k: t[k]})
		if err != nil {
			return err
		}
		if bytes.HasPrefix(line, []byte("[")) {
			return fmt.Errorf("%s.%s is a list of tables, which cannot be copied", name, k)
		}
		b.Write(line)
	}
	for _, k := range tables {
		if err := emit(b, name+"."+quoteKey(k), t[k].(tree)); err != nil {
			return err
		}
	}
	return nil
}

// quoteKey writes one part of a table's name.
func quoteKey(k string) string {
	bare := k != ""
	for _, r := range k {
		bare = bare && (r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z')
	}
	if bare {
		return k
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(k) + `"`
}

// diff lists every value in which two documents differ, except below the paths
// in ignore.
func diff(before, after tree, ignore func(path []string) bool) []string {
	var out []string
	var walk func(path []string, a, b any)
	walk = func(path []string, a, b any) {
		if len(path) > 0 && ignore(path) {
			return
		}
		ta, aok := a.(tree)
		tb, bok := b.(tree)
		if aok && bok || aok && b == nil || bok && a == nil {
			keys := map[string]bool{}
			for k := range ta {
				keys[k] = true
			}
			for k := range tb {
				keys[k] = true
			}
			for _, k := range slices.Sorted(maps.Keys(keys)) {
				walk(append(slices.Clone(path), k), ta[k], tb[k])
			}
			return
		}
		if reflect.DeepEqual(a, b) {
			return
		}
		name := make([]string, len(path))
		for i, k := range path {
			name[i] = quoteKey(k)
		}
		show := func(v any) string {
			if v == nil {
				return "(not there)"
			}
			return fmt.Sprintf("%#v", v)
		}
		out = append(out, fmt.Sprintf("%s: %s became %s", strings.Join(name, "."), show(a), show(b)))
	}
	walk(nil, before, after)
	return out
}
