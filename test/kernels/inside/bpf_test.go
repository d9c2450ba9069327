//go:build inside

package inside

import (
	"encoding/binary"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// insn is an instruction (include/uapi/linux/bpf.h, struct bpf_insn).
type insn struct {
	code uint8
	regs uint8
	off  int16
	imm  int32
}

// regs are two fields of four bits, whose order is the machine's byte order.
func regs(dst, src uint8) uint8 {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		return dst<<4 | src
	}
	return src<<4 | dst
}

// bpf calls bpf(2). attr points to the members of union bpf_attr that the command
// knows.
func bpf(command int, attr unsafe.Pointer, size uintptr) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(command), uintptr(attr), size)
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}

// load loads a program.
func load(kind uint32, program []insn) (int, error) {
	license := []byte("GPL\x00")
	attr := struct {
		progType, insnCount uint32
		insns, license      uint64
	}{kind, uint32(len(program)), uint64(uintptr(unsafe.Pointer(&program[0]))), uint64(uintptr(unsafe.Pointer(&license[0])))}
	defer runtime.KeepAlive(program)
	defer runtime.KeepAlive(license)
	return bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
}

// counter makes a map that holds one number.
func counter() (int, error) {
	attr := struct{ mapType, keySize, valueSize, entries uint32 }{unix.BPF_MAP_TYPE_ARRAY, 4, 8, 1}
	return bpf(unix.BPF_MAP_CREATE, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
}

// count reads it.
func count(counter int) (uint64, error) {
	var key uint32
	var value uint64
	attr := struct {
		fd         uint64
		key, value uint64
	}{0, uint64(uintptr(unsafe.Pointer(&key))), uint64(uintptr(unsafe.Pointer(&value)))}
	*(*uint32)(unsafe.Pointer(&attr.fd)) = uint32(counter)
	_, err := bpf(unix.BPF_MAP_LOOKUP_ELEM, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(&key)
	return value, err
}

// countCalls counts every call of one system call on the whole machine until the
// descriptor is closed that it returns: a raw tracepoint sys_enter, whose second
// argument is the call's number.
func countCalls(call int32, counter int) (int, error) {
	prog, err := load(unix.BPF_PROG_TYPE_RAW_TRACEPOINT, []insn{
		{code: 0x79, regs: regs(2, 1), off: 8},              // r2 = the call
		{code: 0x55, regs: regs(2, 0), off: 9, imm: call},   // another: leave
		{code: 0x62, regs: regs(10, 0), off: -4},            // a key on the stack: 0
		{code: 0xbf, regs: regs(2, 10)},                     // r2 = its address
		{code: 0x07, regs: regs(2, 0), imm: -4},             //
		{code: 0x18, regs: regs(1, 1), imm: int32(counter)}, // r1 = the map
		{},
		{code: 0x85, imm: 1},                   // r0 = map_lookup_elem
		{code: 0x15, regs: regs(0, 0), off: 2}, // none: leave
		{code: 0xb7, regs: regs(1, 0), imm: 1}, // r1 = 1
		{code: 0xdb, regs: regs(0, 1)},         // *r0 += r1, atomic
		{code: 0xb7, regs: regs(0, 0)},         // r0 = 0
		{code: unix.BPF_JMP | unix.BPF_EXIT},
	})
	if err != nil {
		return -1, err
	}
	defer unix.Close(prog)
	name := []byte("sys_enter\x00")
	attr := struct {
		name uint64
		fd   uint64
	}{uint64(uintptr(unsafe.Pointer(&name[0]))), 0}
	*(*uint32)(unsafe.Pointer(&attr.fd)) = uint32(prog)
	defer runtime.KeepAlive(name)
	return bpf(unix.BPF_RAW_TRACEPOINT_OPEN, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
}
