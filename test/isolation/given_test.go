package isolation

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/nstest"
)

// hostSocket is a socket that was made in the host's namespace.
func (w *world) hostSocket(t *testing.T, kind int) *os.File {
	t.Helper()
	var f *os.File
	w.host.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
		f = os.NewFile(uintptr(fd), "socket of the host")
		return err
	})
	t.Cleanup(func() { f.Close() })
	return f
}

// socketHandle is the number, on its disk, of the host's unix socket.
func (w *world) socketHandle(t *testing.T) string {
	t.Helper()
	h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, filepath.Join(w.socketDir, "socket"), 0)
	if err != nil {
		t.Fatalf("the file system of %s gives no file handles: %v", w.socketDir, err)
	}
	return hex.EncodeToString(append([]byte{byte(h.Type())}, h.Bytes()...))
}

// redirectLo attaches a program to lo in a namespace that sends every packet out
// of an interface of the host: who makes the map of devices chooses from its own.
func (w *world) redirectLo(t *testing.T, netns string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "xdp0"
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "xdp1"}
	var program int
	w.host.Do(func() error {
		if err := errors.Join(netlink.LinkAdd(veth), netlink.LinkSetUp(veth)); err != nil {
			return err
		}
		peer, err := netlink.LinkByName("xdp1")
		if err := errors.Join(err, netlink.LinkSetUp(peer)); err != nil {
			return err
		}
		program, err = redirectTo(veth.Attrs().Index)
		return err
	})
	t.Cleanup(func() {
		unix.Close(program)
		w.host.Do(func() error { return netlink.LinkDel(veth) })
	})
	nstest.At(t, netns).Do(func() error {
		lo, err := netlink.LinkByName("lo")
		return errors.Join(err, netlink.LinkSetXdpFd(lo, program))
	})
}

// redirectTo loads an XDP program that redirects to an interface of this thread's
// namespace: return bpf_redirect_map(devices, 0, 0).
func redirectTo(index int) (program int, err error) {
	const (
		devmap, typeXDP        = 14, 6
		loadMap, movImm        = 0x18, 0xb7
		call, exit             = 0x85, 0x95
		bpfPseudoMapFD         = 1
		redirectMap     uint32 = 51
	)
	create := [4]uint32{devmap, 4, 4, 1} // type, key, value, entries
	devices, err := bpf(unix.BPF_MAP_CREATE, unsafe.Pointer(&create), unsafe.Sizeof(create))
	if err != nil {
		return -1, err
	}
	defer unix.Close(devices) // the program keeps it
	key, value := uint32(0), uint32(index)
	update := struct {
		fd, _             uint32
		key, value, flags uint64
	}{fd: uint32(devices), key: address(&key), value: address(&value)}
	if _, err := bpf(unix.BPF_MAP_UPDATE_ELEM, unsafe.Pointer(&update), unsafe.Sizeof(update)); err != nil {
		return -1, err
	}
	var code []byte
	instruction := func(op, registers byte, imm uint32) {
		code = append(code, op, registers, 0, 0)
		code = binary.NativeEndian.AppendUint32(code, imm)
	}
	instruction(loadMap, 1|bpfPseudoMapFD<<4, uint32(devices)) // r1 = devices, of two instructions
	instruction(0, 0, 0)
	instruction(movImm, 2, 0)
	instruction(movImm, 3, 0)
	instruction(call, 0, redirectMap)
	instruction(exit, 0, 0)
	license := []byte("GPL\x00")
	load := struct {
		kind, count   uint32
		code, license uint64
		_             [96]byte
	}{kind: typeXDP, count: uint32(len(code) / 8), code: address(&code[0]), license: address(&license[0])}
	program, err = bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&load), unsafe.Sizeof(load))
	runtime.KeepAlive(code)
	runtime.KeepAlive(license)
	return program, err
}

func address[T any](p *T) uint64 { return uint64(uintptr(unsafe.Pointer(p))) }

// bpf is bpf(2).
func bpf(command int, attr unsafe.Pointer, size uintptr) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(command), uintptr(attr), size)
	if errno != 0 {
		return -1, errno
	}
	return int(r), nil
}
