package main

import (
	"bytes"
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// addMounts notes the namespaces that are bind-mounted where a thread sees
// them. A mount namespace can be another than ours: a container's, a service's
// with private mounts, or the one of rootless podman. What paths mean in ours and
// process 1's, root's runtimes mean by them, and a user's runtimes what they mean
// in that user's.
func (v *visit) addMounts(thread string) error {
	mounts := v.inode(v.dir, thread+"/ns/mnt", "mnt")
	if mounts == 0 || v.mountsSeen[mounts] {
		return nil
	}
	fd, err := openAt(v.dir, thread+"/mountinfo", unix.O_RDONLY)
	if errors.Is(err, unix.EINVAL) { // it has just ended (fs/proc_namespace.c, mounts_open_common)
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	v.mountsSeen[mounts] = true
	ours := mounts == v.ownMounts || mounts == v.hostMounts
	tally := v.tally(v.dir, thread, "", maxMounts, "mounts")
	return v.lines(fd, func(line []byte) bool {
		if !ours && !tally.another() {
			return false
		}
		inode, path, ok := nsfsMount(line)
		if !ok {
			return true
		}
		if ours {
			v.mountPoint(0, path, inode)
		} else if tally.owner.uid != 0 {
			v.mountPoint(tally.owner.uid, path, inode)
		}
		ns := v.at(inode, way{root: v.name(thread + "/root"), path: path, mount: true})
		if name := (mountName{inode, path}); !v.namesSeen[name] {
			v.namesSeen[name] = true
			ns.mounts = append(ns.mounts, path)
		}
		return true
	})
}

// mountPoint notes what a user's runtimes call a namespace. The first one counts,
// which a user's containers came after.
func (s *scan) mountPoint(uid uint32, path string, inode uint64) {
	if s.mountPoints[uid] == nil {
		s.mountPoints[uid] = map[string]uint64{}
	}
	if _, known := s.mountPoints[uid][path]; !known || uid == 0 {
		s.mountPoints[uid][path] = inode
	}
}

// lines calls visit with each line of a file until it says that it is enough.
func (p *procfs) lines(fd int, visit func(line []byte) bool) error {
	kept := 0
	for {
		n, err := unix.Read(fd, p.text[kept:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return err
		}
		data := p.text[:kept+n]
		for {
			line, rest, ok := bytes.Cut(data, []byte("\n"))
			if !ok {
				break
			}
			if !visit(line) {
				return nil
			}
			data = rest
		}
		kept = copy(p.text, data)
		if kept == len(p.text) {
			kept = 0 // no path is that long: it is none of ours
		}
	}
}

// nsfsMount reads a line of mountinfo (proc_pid_mountinfo(5)):
//
//	ID PARENT MAJOR:MINOR net:[4026532245] /run/netns/x rw shared:4 - nsfs nsfs rw
func nsfsMount(line []byte) (inode uint64, path string, ok bool) {
	before, after, _ := bytes.Cut(line, []byte(" - "))
	if !bytes.HasPrefix(after, []byte("nsfs ")) {
		return 0, "", false
	}
	fields := bytes.Fields(before)
	if len(fields) < 5 {
		return 0, "", false
	}
	inode, ok = inodeOf(fields[3], "net")
	return inode, unescapeMount(string(fields[4])), ok
}

// unescapeMount undoes the kernel's \040 for a space, a tab, a newline and a
// backslash (fs/proc_namespace.c, show_mountinfo).
func unescapeMount(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
