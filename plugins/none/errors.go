package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/cni-none/cni-none/pkg/loopback"
)

// Codes of our own start at 100 (SPEC.md, "Error").
const (
	errNotExclusive uint = 100 // other interfaces, or what is left of them, in an exclusive namespace
	errLoopback     uint = 101 // loopback is not as it should be
	errKernel       uint = 102 // the kernel refused an operation
)

// errorDocument is the one JSON document on stdout of a call that failed.
func errorDocument(cniVersion string, err error) []byte {
	if cniVersion == "" {
		cniVersion = version.Current() // the config never said, or said one that we do not know
	}
	e := toError(err)
	for most := maxDocument; ; most /= 2 {
		document := encode(struct {
			CNIVersion string `json:"cniVersion"`
			*types.Error
		}{cniVersion, e})
		if len(document) <= maxDocument {
			return document
		}
		e = types.NewError(e.Code, cutTo(most, e.Msg), cutTo(most, e.Details))
	}
}

// maxDocument is how long an error document may be. What is quoted in one is cut
// before; this is for what was not thought of.
const maxDocument = 4 << 10

// toError gives err the code that the spec or errors.go above has for it. It
// keeps a *types.Error as it is.
func toError(err error) *types.Error {
	var coded *types.Error
	var found *loopback.Findings
	var refused *loopback.OpError
	switch {
	case errors.As(err, &coded):
		return coded
	case errors.Is(err, loopback.ErrNotExist):
		return types.NewError(types.ErrUnknownContainer, "CNI_NETNS: "+err.Error(), "the container has ended, or the runtime passed a wrong path: "+aPath)
	case errors.Is(err, loopback.ErrNotNetns):
		return types.NewError(types.ErrInvalidNetNS, "CNI_NETNS: "+err.Error(), aPath)
	case errors.Is(err, loopback.ErrHost):
		return types.NewError(types.ErrInvalidNetNS, "CNI_NETNS: "+err.Error(), "the container needs a network namespace of its own (not host networking); its PID may have been reused")
	case errors.Is(err, loopback.ErrChanging), errors.Is(err, os.ErrDeadlineExceeded):
		return types.NewError(types.ErrTryAgainLater, err.Error(), "try again")
	case errors.As(err, &found) && len(found.Extra) > 0:
		return types.NewError(errNotExclusive, found.Error(), "this network is exclusive: attach no other network to the container, or set \"exclusive\": false")
	case errors.As(err, &found) && len(found.NSIDs) > 0:
		return types.NewError(errNotExclusive, found.Error(), "this network is exclusive: give the container a new network namespace, or set \"exclusive\": false")
	case errors.As(err, &found) && found.XDP:
		return types.NewError(errNotExclusive, found.Error(), "this network is exclusive: detach the program (ip link set lo xdpgeneric off), or set \"exclusive\": false")
	case errors.As(err, &found) && len(found.NonLoopback) > 0:
		return types.NewError(errLoopback, found.Error(), "this network is exclusive: remove the address, or set \"exclusive\": false")
	case errors.As(err, &found) && len(found.Violations()) > 0:
		return types.NewError(errLoopback, found.Error(), "give the container a new network namespace")
	case errors.As(err, &found):
		return types.NewError(errLoopback, found.Error(), "ADD restores what is missing; whatever changed lo should not")
	case errors.As(err, &refused):
		remedy := ""
		if errors.Is(err, fs.ErrPermission) {
			remedy = privileges
		}
		return types.NewError(errKernel, "the kernel refused: "+refused.Error(), remedy)
	default:
		return types.NewError(types.ErrInternal, err.Error(), "")
	}
}

const (
	aPath      = "it is the path of a network namespace, such as /proc/PID/ns/net or /run/netns/NAME"
	privileges = "run the runtime as root with CAP_SYS_ADMIN and CAP_NET_ADMIN"
)

func missingEnv(key string) error {
	return types.NewError(types.ErrInvalidEnvironmentVariables, key+" is missing", "the runtime has to set it for this CNI_COMMAND")
}

func invalidEnv(key, value, why, remedy string) error {
	return types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("%s: %s %s", key, quoteValue(value), why), remedy)
}

func invalidConfig(key, why, remedy string) error {
	return types.NewError(types.ErrInvalidNetworkConfig, key+": "+why, remedy)
}

// cannotHonour refuses a request that would otherwise get lost.
func cannotHonour(key, value, why, remedy string) error {
	return types.NewError(types.ErrUnsupportedField, fmt.Sprintf("%s: %s cannot be honoured: %s", key, shorten(value), why), remedy)
}

func quoteValue(s string) string { return shorten(strconv.Quote(s)) }

// plain is quoteValue for what mostly needs no quotes.
func plain(s string) string {
	if q := strconv.Quote(s); q != `"`+s+`"` {
		return shorten(q)
	}
	return shorten(s)
}

// shorten keeps an error readable whose value is not.
func shorten(s string) string { return cutTo(200, s) }

func cutTo(most int, s string) string {
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}

// encode is json.Marshal, with a newline and without \u003c for '<'. It is only
// given what can be encoded.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err)
	}
	return b.Bytes()
}
