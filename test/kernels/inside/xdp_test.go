//go:build inside

package inside

import (
	"runtime"
	"testing"
	"unsafe"

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
	prog, err := loadXDP()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(prog)
	with(t, ns, "lo", func(lo netlink.Link) error { return netlink.LinkSetXdpFdWithFlags(lo, prog, unix.XDP_FLAGS_SKB_MODE) })
	refused(t, ns.Path, "lo", "XDP")
	with(t, ns, "lo", func(lo netlink.Link) error { return netlink.LinkSetXdpFdWithFlags(lo, -1, unix.XDP_FLAGS_SKB_MODE) })
	accepted(t, ns.Path)
}

// loadXDP loads the program that passes everything on: r0 = XDP_PASS; exit
// (include/uapi/linux/bpf.h, struct bpf_insn and union bpf_attr).
func loadXDP() (int, error) {
	type insn struct {
		code uint8
		regs uint8
		off  int16
		imm  int32
	}
	program := []insn{{code: unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K, imm: 2}, {code: unix.BPF_JMP | unix.BPF_EXIT}}
	license := []byte("GPL\x00")
	attr := struct {
		progType, insnCount uint32
		insns, license      uint64
		rest                [96]byte
	}{progType: unix.BPF_PROG_TYPE_XDP, insnCount: uint32(len(program)),
		insns: uint64(uintptr(unsafe.Pointer(&program[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0])))}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(program)
	runtime.KeepAlive(license)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}
