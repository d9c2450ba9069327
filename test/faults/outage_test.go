package faults

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/plugintest"
)

// Both outages were nodes whose own loopback interface went down, because a
// runtime asked for DEL with a path that had come to mean the node's namespace.
// They are replayed on a stand-in for the node, in a PID namespace of its own,
// with upstream's plugin to show that the replay is the real thing.

// recycled is kubernetes#100648 and, with the delay before the request is
// served, containernetworking/plugins#714: the container's process ends, its
// PID goes to a process of the node, and then comes the DEL.
// ns_last_pid hands out the PID again at once; it belongs to the PID namespace.
const recycled = `
unshare --net sleep 300 & pid=$!
until [ "$(readlink /proc/$pid/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.05; done
export CNI_NETNS=/proc/$pid/ns/net
CNI_COMMAND=ADD "$1" <"$2" >/dev/null || { echo "ADD failed" >&2; exit 3; }
kill $pid; wait $pid
i=0
while :; do
	echo $((pid - 1)) >/proc/sys/kernel/ns_last_pid
	sleep 300 & again=$!
	[ $again = $pid ] && break
	kill $again; wait $again
	i=$((i+1)); [ $i -lt 20 ] || { echo "PID $pid was not handed out again" >&2; exit 3; }
done
CNI_COMMAND=DEL "$1" <"$2"
status=$?
kill $again
exit $status
`

// init1 is the command that kubernetes#100648 gives to reproduce it: the
// namespace of the node's process 1.
const init1 = `CNI_COMMAND=DEL CNI_NETNS=/proc/1/ns/net "$1" <"$2"`

// override is the same with the variable that upstream has for switching its
// guard off (containernetworking/plugins#714).
const override = `CNI_COMMAND=DEL CNI_NETNS=/proc/self/ns/net CNI_NETNS_OVERRIDE=1 "$1" <"$2"`

func TestNodeOutages(t *testing.T) {
	for _, o := range []struct{ name, script string }{
		{"kubernetes#100648, plugins#714: a recycled PID", recycled},
		{"kubernetes#100648: process 1", init1},
		{"plugins#714: CNI_NETNS_OVERRIDE", override},
	} {
		t.Run(o.name, func(t *testing.T) {
			up, out := replay(t, o.script, harness.Bin("cniplugins/loopback"), `{"cniVersion":"1.0.0","name":"cni-loopback","type":"loopback"}`)
			if up {
				t.Errorf("upstream's loopback left the node's lo up, so this is no replay: %s", out)
			}
			ours, out := replay(t, o.script, harness.Plugin(), plugintest.Conf)
			if !ours {
				t.Errorf("the node's lo is down: %s", out)
			}
			fmt.Printf("%-48s node's lo after upstream's loopback: %s, after none: %s\n", o.name, updown(up), updown(ours))
		})
	}
}

func updown(up bool) string {
	if up {
		return "up"
	}
	return "DOWN"
}

// replay runs the script as a shell in a new PID namespace on a new node, and
// tells whether the node's lo is up afterwards. Nothing but lo's state may have
// changed in it.
func replay(t *testing.T, script, plugin, conf string) (up bool, out plugintest.Outcome) {
	t.Helper()
	node := plugintest.NewNode(t)
	before := look(t, node.Path)
	file := t.TempDir() + "/conf"
	write(t, file, conf)
	out = node.Run(t, plugintest.Call{
		Plugin: file, // "$2"
		Wrap:   []string{"unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script, "sh", plugin},
	})
	if out.Hung || out.Exit == 3 {
		t.Fatalf("the replay itself failed: %s", out)
	}
	after := look(t, node.Path)
	up = slices.ContainsFunc(after, func(l string) bool { return strings.HasPrefix(l, "link lo device up=true") })
	if up && !slices.Equal(before, after) {
		t.Errorf("%s changed the node:\nbefore %v\nafter  %v", plugin, before, after)
	}
	return up, out
}

// TestHostIsRefused: ADD and CHECK of the plugin's own namespace are refused
// with code 8, by whatever path it comes, and DEL leaves it alone.
func TestHostIsRefused(t *testing.T) {
	for _, command := range []string{"ADD", "CHECK", "DEL"} {
		for _, via := range []string{"the bind mount", "/proc/self/ns/net", "/proc/thread-self/ns/net"} {
			t.Run(command+" "+via, func(t *testing.T) {
				node := plugintest.NewNode(t)
				// Down, so that an ADD that brings it up shows.
				up := command != "ADD"
				if err := plugintest.SetLo(node.Path, up); err != nil {
					t.Fatal(err)
				}
				before := look(t, node.Path)
				path := via
				if via == "the bind mount" {
					path = node.Path
				}
				o := node.Run(t, plugintest.Call{Plugin: harness.Plugin(), Command: command, Netns: path})
				want := uint(8)
				if command == "DEL" {
					want = 0
				}
				if code(o) != want {
					t.Errorf("want code %d: %s", want, o)
				}
				if after := look(t, node.Path); !slices.Equal(before, after) {
					t.Errorf("the host was touched:\nbefore %v\nafter  %v", before, after)
				}
			})
		}
	}
}

// TestProcess1IsRefused: a runtime that itself runs in another namespace than
// the machine's must not get the machine's. Process 1 of a PID namespace on the
// node stands for the machine's.
func TestProcess1IsRefused(t *testing.T) {
	for _, command := range []string{"ADD", "CHECK", "DEL"} {
		t.Run(command, func(t *testing.T) {
			up, out := replay(t, `CNI_COMMAND=`+command+` CNI_NETNS=/proc/1/ns/net unshare --net "$1" <"$2"`, harness.Plugin(), plugintest.Conf)
			want := uint(8)
			if command == "DEL" {
				want = 0
			}
			if code(out) != want {
				t.Errorf("want code %d: %s", want, out)
			}
			if !up {
				t.Error("the node's lo is down")
			}
		})
	}
}

// TestDELKeepsLo: lo stays up under a process that still runs in the namespace.
func TestDELKeepsLo(t *testing.T) {
	node, other := plugintest.NewNode(t), plugintest.NewNode(t)
	before := look(t, other.Path)
	for range 2 {
		if o := node.Run(t, plugintest.Call{Plugin: harness.Plugin(), Command: "DEL", Netns: other.Path}); code(o) != 0 {
			t.Errorf("DEL: %s", o)
		}
		if after := look(t, other.Path); !slices.Equal(before, after) {
			t.Errorf("DEL changed the namespace:\nbefore %v\nafter  %v", before, after)
		}
	}
}
