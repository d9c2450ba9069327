package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"reflect"
	"slices"
)

// What none-install keeps on the node, besides the plugin and the handler.
const (
	confDir   = "/etc/cni/airgap.d"                 // of its own: the default directory is every pod's
	conflist  = confDir + "/10-airgap-cri.conflist" // as by hand
	stateDir  = "/var/lib/cni-none"
	stateFile = stateDir + "/state.json"
)

// The phases of a state.
const (
	installing   = "installing"
	complete     = "installed"
	uninstalling = "uninstalling"
)

// state is what was put on the node. It is written before anything else and
// deleted after everything else, so that a run that was killed at any point can
// be completed or undone by the next one.
type state struct {
	Phase    string   `json:"phase"`
	Version  string   `json:"version"`
	Handlers handlers `json:"handlers"`
	Target   string   `json:"target"`             // the config file that holds them
	Plugin   string   `json:"plugin"`             // its sum
	Conflist string   `json:"conflist,omitempty"` // where it is not the built-in one
	// The program and the main config file of the containerd that was running.
	Containerd string   `json:"containerd"`
	Config     string   `json:"config"`
	Whole      bool     `json:"whole"`              // the whole file is ours: a drop-in, or a config where there was none
	Leftover   string   `json:"leftover,omitempty"` // an earlier target, until our block in it is gone
	Files      []string `json:"files"`              // the plugin, the conflist, backups
	Dirs       []string `json:"dirs"`               // made for them
}

// loadState returns nil where nothing is installed.
func loadState() (*state, error) {
	data, err := os.ReadFile(stateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s := &state{}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("%s: %w", stateFile, err)
	}
	return s, nil
}

func (s *state) save() error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	_, err = write(stateFile, append(data, '\n'), 0o644)
	return err
}

// clone is a copy that shares nothing; an empty state of nil.
func (s *state) clone() *state {
	if s == nil {
		return &state{Handlers: handlers{}}
	}
	c := *s
	c.Handlers = maps.Clone(s.Handlers)
	if c.Handlers == nil {
		c.Handlers = handlers{}
	}
	c.Files, c.Dirs = slices.Clone(s.Files), slices.Clone(s.Dirs)
	return &c
}

// says whether the state already is what the installation makes of it.
func (s *state) says(want *state, version string) bool {
	w := want.clone()
	w.Phase, w.Version = complete, version
	return s != nil && reflect.DeepEqual(s.clone(), w)
}

func (s *state) whole() string {
	if s.Whole {
		return s.Target
	}
	return ""
}

func (s *state) ownFile(file string) {
	if !slices.Contains(s.Files, file) {
		s.Files = append(s.Files, file)
	}
}

func (s *state) ownDir(dir string) {
	if !slices.Contains(s.Dirs, dir) {
		s.Dirs = append(s.Dirs, dir)
	}
}
