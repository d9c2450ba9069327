package containerd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// File is one file of containerd's config.
type File struct {
	Path   string
	Text   []byte // as it is
	Rest   []byte // without our block
	Block  bool   // it has one
	Exists bool

	parsed tree // of Rest
}

// ReadFile reads one file, there or not.
func ReadFile(path string) (*File, error) {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return newFile(path, text, err == nil)
}

func newFile(path string, text []byte, exists bool) (*File, error) {
	f := &File{Path: path, Text: text, Exists: exists}
	var err error
	if f.Rest, f.Block, err = strip(text); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if f.parsed, err = parse(f.Rest); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

func (f *File) version() int64 { v, _ := f.parsed["version"].(int64); return v }

// imports returns the patterns of a file, as containerd resolves them.
func (f *File) imports() (patterns []string, relative bool) {
	list, _ := f.parsed["imports"].([]any)
	for _, v := range list {
		p, _ := v.(string)
		if p = filepath.Clean(p); !filepath.IsAbs(p) {
			relative = true
			p = filepath.Join(filepath.Dir(f.Path), p)
		}
		patterns = append(patterns, p)
	}
	return patterns, relative
}

func (f *File) hasCRI() bool {
	plugins := at(f.parsed, "plugins")
	return plugins[sectionV1] != nil || plugins[sectionV2] != nil || plugins[sectionV3] != nil
}

// Files returns the main file, there or not, and the imported ones in the order
// in which containerd reads them.
func (e *Engine) Files() ([]*File, error) {
	var files []*File
	seen := map[string]bool{}
	for pending := []string{e.Config}; len(pending) > 0; pending = pending[1:] {
		path := pending[0]
		if seen[path] {
			continue
		}
		seen[path] = true
		f, err := ReadFile(path)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
		patterns, _ := f.imports()
		for _, p := range patterns {
			matches, err := filepath.Glob(p)
			if err != nil {
				return nil, err
			}
			pending = append(pending, matches...)
		}
	}
	return files, nil
}
