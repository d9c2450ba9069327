package main

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/containernetworking/plugins/pkg/utils/buildversion"
)

// maxStdin is the size in bytes of the largest network config that is read.
const maxStdin = 1 << 20

// supported are the versions of the CNI spec that can express a result without
// an address: 0.1.0 and 0.2.0 cannot.
var supported = version.VersionsStartingFrom("0.3.0")

// commands has, for each CNI command, the first version of the spec that has it,
// whether it is about one container, and what serves it. VERSION is answered
// before a version is known.
var commands = map[string]struct {
	since       string
	ofContainer bool
	serve       func(*call) ([]byte, error)
}{
	"ADD":    {"0.3.0", true, add},
	"CHECK":  {"0.4.0", true, check},
	"DEL":    {"0.3.0", true, del},
	"GC":     {"1.1.0", false, gc},
	"STATUS": {"1.1.0", false, status},
}

// call is one call of the plugin, as far as every command has to understand it.
type call struct {
	getenv     func(string) string
	cniVersion string
	conf       object
}

// run serves one call and returns the exit status: 0 with one JSON document or
// none on stdout, or 1 with one error document there.
func run(p process) int {
	if p.getenv("CNI_COMMAND") == "" {
		hint(p.stderr)
		return 0
	}
	c := call{getenv: p.getenv}
	answer, err := c.serve(p.stdin)
	status := 0
	if err != nil {
		answer, status = errorDocument(c.cniVersion, err), 1
	}
	n, err := p.stdout.Write(answer)
	if err == nil {
		return status
	}
	failed := types.NewError(types.ErrIOFailure, "write to stdout: "+err.Error(), "")
	fmt.Fprintf(p.stderr, "cni-none: %s\n", failed.Msg)
	if n == 0 { // else it would be a second document
		_, _ = p.stdout.Write(errorDocument(c.cniVersion, failed))
	}
	return 1
}

// serve returns what goes to stdout. A panic is a bug of ours, but the runtime
// still gets an error that it can read.
func (c *call) serve(stdin io.Reader) (answer []byte, err error) {
	defer func() {
		if bug := recover(); bug != nil {
			answer, err = nil, types.NewError(types.ErrInternal, fmt.Sprintf("bug in cni-none %s: %v", buildversion.BuildVersion, bug),
				"please report it at https://github.com/cni-none/cni-none/issues")
		}
	}()
	name := c.getenv("CNI_COMMAND")
	if name == "VERSION" {
		var b bytes.Buffer
		err := supported.Encode(&b)
		return b.Bytes(), err
	}
	command, known := commands[name]
	if !known {
		return nil, unknownCommand(name)
	}
	if command.ofContainer {
		if err := c.checkContainerID(); err != nil {
			return nil, err
		}
		if name != "DEL" && c.getenv("CNI_IFNAME") == "" {
			return nil, missingEnv("CNI_IFNAME") // what it says does not matter: the interface is lo
		}
	}
	if err := c.read(stdin); err != nil {
		return nil, err
	}
	// The version is known to be a supported one, so that it can be compared.
	if ok, err := version.GreaterThanOrEqualTo(c.cniVersion, command.since); err != nil || !ok {
		return nil, types.NewError(types.ErrIncompatibleCNIVersion,
			fmt.Sprintf("cniVersion: %q has no %s, which came with %s", c.cniVersion, name, command.since),
			fmt.Sprintf("set cniVersion to %s or later, or do not call %s", command.since, name))
	}
	return command.serve(c)
}

// unknownCommand tells the runtime's author, or a person at a shell, what to write.
func unknownCommand(name string) error {
	remedy := "write one of them"
	if _, known := commands[strings.ToUpper(name)]; known || strings.EqualFold(name, "VERSION") {
		remedy = "write " + strings.ToUpper(name)
	}
	return invalidEnv("CNI_COMMAND", name, "is not ADD, DEL, CHECK, GC, STATUS or VERSION", remedy)
}

// checkContainerID requires CNI_CONTAINERID, and names the character that the
// spec does not allow.
func (c *call) checkContainerID() error {
	id := c.getenv("CNI_CONTAINERID")
	if id == "" {
		return missingEnv("CNI_CONTAINERID")
	}
	at := badInName(id)
	if at < 0 {
		return nil
	}
	bad, _ := utf8.DecodeRuneInString(id[at:])
	why := fmt.Sprintf("has %q in it", bad)
	if at == 0 {
		why = fmt.Sprintf("starts with %q", bad)
	}
	return invalidEnv("CNI_CONTAINERID", id, why, "a container ID is a letter or digit followed by letters, digits, '_', '.' and '-'")
}

// read takes the network config from stdin, as far as DEL and GC look at it:
// a JSON object in a version of the spec that we know.
func (c *call) read(stdin io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(stdin, maxStdin+1))
	if err != nil {
		return types.NewError(types.ErrIOFailure, "read the network config from stdin: "+err.Error(), "")
	}
	if len(data) > maxStdin {
		return types.NewError(types.ErrDecodingFailure, "the network config on stdin is larger than 1 MiB",
			"check what the runtime sends: a network config has a few hundred bytes")
	}
	if c.conf, err = parseObject(data); err != nil {
		return types.NewError(types.ErrDecodingFailure, "the network config on stdin is not a JSON object: "+err.Error(),
			"a network config looks like {\"cniVersion\": \"1.0.0\", \"name\": \"airgap\", \"type\": \"none\"}")
	}
	var v string
	if err := c.conf.decode("cniVersion", &v); err != nil {
		return err
	}
	if slices.Contains(supported.SupportedVersions(), v) {
		c.cniVersion = v
		return nil
	}
	said := fmt.Sprintf("cniVersion: %s is not supported", quoteValue(v))
	if v == "" {
		said = "cniVersion: missing, which means 0.1.0 and is not supported"
	}
	return types.NewError(types.ErrIncompatibleCNIVersion, said,
		"set it to one of "+strings.Join(supported.SupportedVersions(), ", "))
}

// badInName returns where s stops being a container ID or a network name
// (SPEC.md, "Parameters" and "Configuration format"), or -1. cni/pkg/utils has
// the same as a regexp, which costs more to compile than all of a DEL.
func badInName(s string) int {
	for i, r := range []byte(s) {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
		case i > 0 && (r == '_' || r == '.' || r == '-'):
		default:
			return i
		}
	}
	return -1
}

// hint is for a person who runs the plugin by hand.
func hint(stderr io.Writer) {
	fmt.Fprintf(stderr, `%s: loopback, and no other network, for a container.
CNI versions: %s.
A container runtime runs this, with a CNI command in CNI_COMMAND and a network config on stdin.
To start: https://github.com/cni-none/cni-none#podman-nerdctl-cnitool
`, buildversion.BuildString("none"), strings.Join(supported.SupportedVersions(), ", "))
}
