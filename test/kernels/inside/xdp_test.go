//go:build inside

package inside

import (
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/nstest"
)

// TestXDP: a program on lo can redirect what it gets into another namespace, so
// a namespace that has one is refused.
func TestXDP(t *testing.T) {
	noFallbacks(t)
	ns := nstest.New(t)
	accepted(t, ns.Path)
	// It passes everything on: r0 = XDP_PASS; exit.
	prog, err := load(unix.BPF_PROG_TYPE_XDP, []insn{{code: unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K, imm: 2}, {code: unix.BPF_JMP | unix.BPF_EXIT}})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(prog)
	with(t, ns, "lo", func(lo netlink.Link) error { return netlink.LinkSetXdpFdWithFlags(lo, prog, unix.XDP_FLAGS_SKB_MODE) })
	refused(t, ns.Path, "lo", "XDP")
	with(t, ns, "lo", func(lo netlink.Link) error { return netlink.LinkSetXdpFdWithFlags(lo, -1, unix.XDP_FLAGS_SKB_MODE) })
	accepted(t, ns.Path)
}
