package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/nstest"
)

// asNode makes the test binary behave as process 1 of a node: it runs in PID,
// mount and network namespaces of its own, so that no loopback but its own is
// in danger.
const asNode = "NONE_TEST_AS_NODE"

// TestGuard calls the plugin for the node's own namespace, by every name it has.
// The same calls take the node's lo down when they go to upstream's loopback,
// which shows that the test would notice.
func TestGuard(t *testing.T) {
	nstest.New(t) // needs root, as this does
	if out, err := exec.Command("../../tools/build.sh", "cniplugins").CombinedOutput(); err != nil {
		t.Fatalf("build upstream's loopback: %v\n%s", err, out)
	}
	upstream, err := filepath.Abs("../../bin/cniplugins/loopback")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	machine := filepath.Join(dir, "machine")
	if err := os.WriteFile(machine, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("/proc/self/ns/net", machine, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(machine, unix.MNT_DETACH)
	node := exec.Command(os.Args[0], dir, upstream)
	node.Env = append(os.Environ(), asNode+"=1")
	node.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET}
	out, err := node.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "\nall of it seen\n") {
		t.Error("it did not get to the end")
	}
}

// nodeMain is process 1 of the node.
func nodeMain(dir, upstream string) error {
	err := errors.Join(
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("proc", "/proc", "proc", 0, ""),
		netlinkCommand([]string{"lo", "up"}))
	if err != nil {
		return err
	}
	bind, link := filepath.Join(dir, "bind"), filepath.Join(dir, "link")
	err = errors.Join(
		os.WriteFile(bind, nil, 0o600),
		unix.Mount("/proc/1/ns/net", bind, "", unix.MS_BIND, ""),
		os.Symlink(bind, link))
	if err != nil {
		return err
	}
	if err := refusesTheFirst(filepath.Join(dir, "machine")); err != nil {
		return err
	}
	names := []string{bind, link, "/proc/self/ns/net", "/proc/thread-self/ns/net", "/proc/1/ns/net"}
	for _, elsewhere := range []bool{false, true} {
		for _, name := range names {
			if elsewhere && strings.Contains(name, "self") {
				continue // names the plugin's own namespace, which is not the node's then
			}
			for _, override := range []string{"", "1", "true"} {
				if err := guarded(name, override, elsewhere); err != nil {
					return fmt.Errorf("CNI_NETNS=%s CNI_NETNS_OVERRIDE=%q, plugin in another namespace: %v: %w", name, override, elsewhere, err)
				}
			}
		}
	}
	for _, name := range names {
		before := lo()
		pluginAt(upstream, false, map[string]string{"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "lo", "CNI_PATH": dir, "CNI_NETNS": name}, io.Discard)
		fmt.Printf("upstream's loopback, DEL with CNI_NETNS=%s: lo was %q and is %q\n", name, before, lo())
		if strings.HasPrefix(lo(), "up") {
			return errors.New("upstream's loopback left lo alone: this test could not have noticed")
		}
		if err := netlinkCommand([]string{"lo", "up"}); err != nil {
			return err
		}
	}
	fmt.Println("\nall of it seen")
	return nil
}

// refusesTheFirst gives the plugin, which sees no process outside the node, the
// machine's own namespace by a path, as in a container of a daemon that has the
// node's /run. It only calls CHECK, which would not touch the machine's lo either.
func refusesTheFirst(machine string) error {
	const first = 4026531833 // NET_NS_INIT_INO
	var st unix.Stat_t
	if err := unix.Stat(machine, &st); err != nil {
		return err
	}
	if st.Ino != first {
		fmt.Println("this test is not in the machine's first namespace, or the kernel gives that no fixed number: nothing to see")
		return nil
	}
	env := map[string]string{"CNI_COMMAND": "CHECK", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_NETNS": machine, asPlugin: "1"}
	var stdout bytes.Buffer
	var e struct{ Code int }
	status := pluginAt(os.Args[0], false, env, &stdout)
	if err := json.Unmarshal(stdout.Bytes(), &e); err != nil || status != 1 || e.Code != 8 {
		return fmt.Errorf("CHECK of the machine's first namespace: exit status %d: %s", status, &stdout)
	}
	fmt.Printf("CHECK of the machine's first namespace, from a container: %s", &stdout)
	return nil
}

func lo() string { return describeLo("/proc/self/ns/net") }

// guarded calls ADD, CHECK and DEL for the node's namespace, with lo up and with
// lo down, and wants the first two refused and lo as it was.
func guarded(name, override string, elsewhere bool) error {
	for _, state := range []string{"down", "up"} {
		if err := netlinkCommand([]string{"lo", state}); err != nil {
			return err
		}
		before := lo()
		for _, command := range []string{"ADD", "CHECK", "DEL"} {
			env := map[string]string{"CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_NETNS": name, "CNI_NETNS_OVERRIDE": override, asPlugin: "1"}
			var stdout bytes.Buffer
			status := pluginAt(os.Args[0], elsewhere, env, &stdout)
			if after := lo(); after != before {
				return fmt.Errorf("%s: lo was %q and is %q", command, before, after)
			}
			if command == "DEL" {
				if status != 0 || stdout.Len() > 0 {
					return fmt.Errorf("DEL: exit status %d: %s", status, &stdout)
				}
				continue
			}
			var e struct{ Code int }
			if err := errors.Join(isErrorDocument(stdout.Bytes()), json.Unmarshal(stdout.Bytes(), &e)); err != nil {
				return err
			}
			if status != 1 || e.Code != 8 {
				return fmt.Errorf("%s: exit status %d: %s", command, status, &stdout)
			}
		}
	}
	return nil
}

// pluginAt execs a plugin, in the node's network namespace or in another.
func pluginAt(path string, elsewhere bool, env map[string]string, stdout io.Writer) int {
	cmd := exec.Command(path)
	cmd.Stdin, cmd.Stdout = strings.NewReader(plainConf), stdout
	for key, value := range env {
		cmd.Env = append(cmd.Env, key+"="+value)
	}
	if elsewhere {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	}
	if cmd.Run() != nil {
		return cmd.ProcessState.ExitCode()
	}
	return 0
}
