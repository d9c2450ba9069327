package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

const defaultHandler = "airgap"

// handlers are runtime handlers, each with the one that it is a copy of; "" is
// the runtime's default.
type handlers map[string]string

// handlerName: a label of the node ends in it, and the policies know a hermetic
// pod by it.
var handlerName = regexp.MustCompile(`^airgap(-[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?)?$`)

func (h handlers) String() string {
	var all []string
	for _, name := range h.names() {
		if base := h[name]; base != "" {
			name += "=" + base
		}
		all = append(all, name)
	}
	return strings.Join(all, ", ")
}

// Set takes NAME or NAME=BASE from the command line.
func (h handlers) Set(value string) error {
	name, base, given := strings.Cut(value, "=")
	if !handlerName.MatchString(name) {
		return fmt.Errorf("a handler is called airgap or airgap-NAME, in lower case")
	}
	if given && base == "" {
		return fmt.Errorf("%s= names no handler to copy", name)
	}
	h[name] = base
	return nil
}

func (h handlers) names() []string { return slices.Sorted(maps.Keys(h)) }

// wanted are the handlers that the node is to have: those that were asked for, or
// else those that it has, or else the default one. The alias adds to them.
func (in *installer) wanted(st *state) handlers {
	h := maps.Clone(in.handlers)
	if len(h) == 0 && st != nil {
		h = maps.Clone(st.Handlers)
	}
	if h == nil {
		h = handlers{}
	}
	if in.baseHandler != "" {
		h[defaultHandler+"-"+in.baseHandler] = in.baseHandler
	}
	if len(h) == 0 {
		h[defaultHandler] = ""
	}
	return h
}

// dropped are the handlers that the node has and is to have no more.
func (st *state) dropped(wanted handlers) []string {
	return slices.DeleteFunc(st.Handlers.names(), func(name string) bool { _, ok := wanted[name]; return ok })
}
