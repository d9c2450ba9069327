package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/cni-none/cni-none/conf"
	"golang.org/x/sys/unix"
)

// network is the conflist that the node is to have: the one that was asked for,
// or else the one from the last install, or else the built-in one.
func (in *installer) network(st *state) ([]byte, error) {
	switch {
	case in.conflist != nil:
		return in.conflist, nil
	case in.placeholder != "":
		return withPlaceholder(in.placeholder)
	case st != nil && st.Conflist != "":
		return []byte(st.Conflist), nil
	case st == nil:
		return byHand()
	}
	return conf.AirgapCRI, nil
}

// byHand is the conflist of a node that was set up by hand, where it is one that
// could be installed.
func byHand() ([]byte, error) {
	data, err := os.ReadFile(conflist)
	if errors.Is(err, fs.ErrNotExist) {
		return conf.AirgapCRI, nil
	}
	if err != nil {
		return nil, err
	}
	if _, err := checkNetwork(data); err != nil {
		return nil, fmt.Errorf("%s is there already, and none-install did not put it there: %w", conflist, err)
	}
	return data, nil
}

// remembered is what the state keeps of a conflist: "" of the built-in one, so that
// another version's replaces it.
func remembered(network []byte) string {
	if bytes.Equal(network, conf.AirgapCRI) {
		return ""
	}
	return string(network)
}

// withPlaceholder is the built-in conflist with another placeholder. Whether that
// is one, the plugin says.
func withPlaceholder(address string) ([]byte, error) {
	var list conflistFile
	if err := json.Unmarshal(conf.AirgapCRI, &list); err != nil {
		return nil, err
	}
	old, err := json.Marshal(list.Plugins[0].PlaceholderIPs)
	if err != nil {
		return nil, err
	}
	quoted, err := json.Marshal([]string{address})
	if err != nil {
		return nil, err
	}
	return bytes.Replace(conf.AirgapCRI, old, quoted, 1), nil
}

// conflistFile is what we read of a network config list.
type conflistFile struct {
	CNIVersion  string   `json:"cniVersion"`
	CNIVersions []string `json:"cniVersions"`
	Name        string   `json:"name"`
	Plugins     []struct {
		Type           string   `json:"type"`
		PlaceholderIPs []string `json:"placeholderIPs"`
	} `json:"plugins"`
}

// checkNetwork refuses a config that would give the handler's pods a network, or
// no pods at all: containerd and kubelet insist on an address.
func checkNetwork(network []byte) (conflistFile, error) {
	var list conflistFile
	if err := json.Unmarshal(network, &list); err != nil {
		return list, fmt.Errorf("the network config is no CNI config list: %w", err)
	}
	if len(list.Plugins) != 1 || list.Plugins[0].Type != "none" {
		var types []string
		for _, p := range list.Plugins {
			types = append(types, p.Type)
		}
		return list, fmt.Errorf("the network config is to have the plugin none and no other, and has %q", types)
	}
	if len(list.Plugins[0].PlaceholderIPs) == 0 {
		return list, errors.New("the network config reports no address, and containerd refuses a pod without one: give it placeholderIPs")
	}
	return list, nil
}

// checkPayload has the plugin run on this machine and take the config.
func checkPayload(ctx context.Context, plugin, network []byte) error {
	list, err := checkNetwork(network)
	if err != nil {
		return err
	}
	if !isPlugin(plugin) {
		return errors.New("the file to install is not the plugin none: give the right one with --plugin")
	}
	out, err := callPlugin(ctx, plugin, "VERSION", []byte(`{"cniVersion":"1.1.0"}`))
	var v struct {
		SupportedVersions []string `json:"supportedVersions"`
	}
	if err == nil {
		err = json.Unmarshal(out, &v)
	}
	if err != nil {
		return fmt.Errorf("the plugin to install does not work on this machine: %w", err)
	}
	for _, want := range append(list.CNIVersions, list.CNIVersion) {
		if !slices.Contains(v.SupportedVersions, want) {
			return fmt.Errorf("the plugin to install does not support CNI %s, which the network config asks for: it supports %s", want, strings.Join(v.SupportedVersions, ", "))
		}
	}
	var raw struct{ Plugins []map[string]any }
	if err := json.Unmarshal(network, &raw); err != nil {
		return err
	}
	conf := raw.Plugins[0]
	conf["cniVersion"], conf["name"] = "1.1.0", list.Name
	stdin, err := json.Marshal(conf)
	if err != nil {
		return err
	}
	_, err = callPlugin(ctx, plugin, "STATUS", stdin)
	var said *pluginError
	if errors.As(err, &said) && said.Code == notAvailable {
		return nil // it lacks a capability here and now: an image that is being built
	}
	if err != nil {
		return fmt.Errorf("the plugin refuses the network config: %w", err)
	}
	return nil
}

// notAvailable is the code of a STATUS that could not serve an ADD (the CNI spec, "Error").
const notAvailable = 50

// pluginError is the error document of a plugin.
type pluginError struct {
	Code         int
	Msg, Details string
}

func (e *pluginError) Error() string { return strings.TrimSpace(e.Msg + " " + e.Details) }

// isPlugin says whether a program was built from the plugin's package.
func isPlugin(program []byte) bool {
	info, err := buildinfo.Read(bytes.NewReader(program))
	return err == nil && strings.HasSuffix(info.Path, "/plugins/none")
}

// callPlugin runs the plugin as a runtime does, from memory: it is in no
// directory of the node yet.
func callPlugin(ctx context.Context, plugin []byte, cmd string, stdin []byte) ([]byte, error) {
	fd, err := unix.MemfdCreate("none", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "none")
	defer f.Close()
	if _, err := f.Write(plugin); err != nil {
		return nil, err
	}
	// A file that is open for writing cannot be run (ETXTBSY in execve(2)).
	program, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return nil, err
	}
	defer program.Close()
	f.Close()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var stdout, stderr bytes.Buffer
	c := exec.CommandContext(ctx, fmt.Sprintf("/proc/self/fd/%d", program.Fd()))
	c.Env = []string{"CNI_COMMAND=" + cmd, "CNI_PATH=/"}
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	if err := c.Run(); err != nil {
		said := &pluginError{}
		if json.Unmarshal(stdout.Bytes(), said) == nil && said.Code != 0 {
			return nil, fmt.Errorf("%s: %w", cmd, said)
		}
		return nil, fmt.Errorf("%s: %w: %s", cmd, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.Bytes(), nil
}
