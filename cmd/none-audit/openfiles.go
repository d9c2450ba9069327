package main

import (
	"bytes"
	"math"
	"strconv"

	"golang.org/x/sys/unix"
)

// addFiles notes the namespaces that a process keeps open. Its threads have the
// same files, and those of one that has ended are not to be had.
func (v *visit) addFiles() error {
	if v.living == "" {
		return nil
	}
	dir, err := openAt(v.dir, v.living+"/fd", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	tally := v.tally(v.dir, v.living, v.id, maxFiles, "open files")
	return v.numbers(dir, v.entries, func(fd int) {
		if tally.another() {
			v.addFile(dir, fd)
		}
	})
}

func (v *visit) addFile(dir, fd int) {
	number := strconv.Itoa(fd)
	if writable(dir, number) {
		return
	}
	info, infoErr := v.file(v.dir, v.living+"/fdinfo/"+number)
	if infoErr == nil && otherInode(info) {
		return
	}
	link, err := v.link(dir, number)
	if err != nil || len(link) == 0 {
		return
	}
	inode, ok := inodeOf(link, "net")
	if !ok && infoErr == nil && link[0] == '/' {
		inode, ok = v.mountedInode(number) // it was opened by the path of a bind mount, and is called by it
	}
	if ok {
		path := v.name(v.living + "/fd/" + number)
		ns := v.at(inode, way{path: path})
		ns.files = append(ns.files, path)
	}
}

// writable says that a file is open for writing: the mode of its link shows it
// (fs/proc/fd.c, tid_fd_update_inode). Such a file is no namespace, because the inodes
// of namespaces are immutable, and the kernel opens them for reading only, also for
// root (fs/nsfs.c; fs/namei.c, inode_permission). Sockets and terminals are open for
// writing, and to ask for the mode takes a third of the time that the name takes.
func writable(dir int, fd string) bool {
	var st unix.Stat_t
	return unix.Fstatat(dir, fd, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IWUSR != 0
}

// firstInode is the lowest inode number of a namespace: the initial ones are
// just below PROC_DYNAMIC_FIRST, all others above (include/uapi/linux/nsfs.h,
// fs/proc/generic.c).
const firstInode = 0xeffffff0

// otherInode reads a file's fdinfo, and says that its number is none of a namespace.
// Most files are none, and one may be on a server that does not answer, for which even
// stat(2) through /proc would wait. So the number comes first, from where no server is
// asked (proc_pid_fdinfo(5)).
func otherInode(info []byte) bool {
	_, after, ok := bytes.Cut(info, []byte("\nino:\t")) // since Linux 5.14
	number, _, _ := bytes.Cut(after, []byte("\n"))
	n, err := strconv.ParseUint(string(number), 10, 64)
	return ok && (err != nil || n < firstInode || n > math.MaxUint32)
}

// mountedInode opens a file by the path of a bind mount, if it is one of a namespace.
func (v *visit) mountedInode(fd string) (uint64, bool) {
	path := v.name(v.living + "/fd/" + fd)
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_INO, &st)
	if err != nil || st.Dev_major != v.nsfs[0] || st.Dev_minor != v.nsfs[1] {
		return 0, false
	}
	n, err := way{path: path}.open()
	if err != nil {
		return 0, false
	}
	defer n.Close()
	return n.ID().Ino, true
}
