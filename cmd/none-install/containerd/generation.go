package containerd

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// The CRI plugin's section in containerd's config, by the config's version.
const (
	sectionV1 = "cri"
	sectionV2 = "io.containerd.grpc.v1.cri"
	sectionV3 = "io.containerd.cri.v1.runtime"
)

// DropIn is the name of the file that containerd 2 gets, also by hand.
const DropIn = "airgap.toml"

func sectionOf(version int64) string {
	switch {
	case version >= 3:
		return sectionV3
	case version == 2:
		return sectionV2
	}
	return sectionV1
}

// generation is what containerd 1 and containerd 2 do differently with their config.
type generation interface {
	// section is the CRI plugin's in a dump; "" where this is no dump of this generation.
	section(dump tree) string
	// read leaves the files that containerd did read, the main one first.
	read(files []*File, dump tree) ([]*File, error)
	// dropIn is a file of our own that would be merged, where there can be one.
	dropIn(main *File) (path string, ok bool)
	// version is the one that a file's section is read as.
	version(target, main *File) int64
	// newVersion is the one that a file of our own says.
	newVersion() int64
	// beside returns the built-in handlers that would go when target names its
	// first one, and so have to be written out beside ours.
	beside(target tree, section string, dump *DiskConfig) tree
}

var generations = []generation{v2{}, v1{}}

// v2 is containerd 2: it merges drop-in files and knows each one's version.
type v2 struct{}

func (v2) section(dump tree) string {
	if at(dump, "plugins", sectionV3, "containerd") != nil {
		return sectionV3
	}
	return ""
}

func (v2) read(files []*File, _ tree) ([]*File, error) { return files, nil }

func (v2) dropIn(main *File) (string, bool) {
	if !main.Exists {
		return "", false
	}
	patterns, _ := main.imports()
	for _, pattern := range patterns {
		path := filepath.Join(filepath.Dir(pattern), DropIn)
		if ok, _ := filepath.Match(pattern, path); ok && !strings.Contains(filepath.Dir(pattern), "*") {
			return path, true
		}
	}
	return "", false
}

func (v2) version(target, _ *File) int64 { return target.version() }

func (v2) newVersion() int64 { return 3 }

func (v2) beside(tree, string, *DiskConfig) tree { return nil }

// v1 is containerd 1.6 and 1.7: an imported file replaces the whole CRI section of
// the others, so there is no drop-in; and the first handler that the config names
// drops the built-in ones.
type v1 struct{}

func (v1) section(dump tree) string {
	for _, s := range []string{sectionV2, sectionV1} {
		if at(dump, "plugins", s, "containerd") != nil {
			return s
		}
	}
	return ""
}

// read: the dump says which files were read. 1.6 takes a relative pattern from its
// working directory, 1.7 takes it from the importing file.
func (v1) read(files []*File, dump tree) ([]*File, error) {
	loaded, _ := dump["imports"].([]any)
	main := files[0]
	if !main.Exists {
		return files, nil
	}
	files = slices.DeleteFunc(slices.Clone(files), func(f *File) bool { return !slices.Contains(loaded, any(f.Path)) })
	if len(files) == 0 || files[0] != main {
		return nil, fmt.Errorf("containerd reads %v, and %s is not among these", loaded, main.Path)
	}
	return files, nil
}

func (v1) dropIn(*File) (string, bool) { return "", false }

// version: all files are read as the main one's version.
func (v1) version(target, main *File) int64 {
	if v := target.version(); v != 0 || target == main {
		return v
	}
	return main.version()
}

func (v1) newVersion() int64 { return 2 }

func (v1) beside(target tree, section string, dump *DiskConfig) tree {
	if len(at(target, "plugins", section, "containerd", "runtimes")) > 0 {
		return nil
	}
	return dump.runtimes()
}
