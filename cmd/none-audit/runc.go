package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// runcState is what we read of runc's state.json (libcontainer.State).
type runcState struct {
	ID     string `json:"id"`
	Pid    int    `json:"init_process_pid"`
	Start  uint64 `json:"init_process_start"`
	Config struct {
		Labels []string `json:"labels"` // key=value: the annotations of the OCI bundle
	} `json:"config"`
}

func readRunc(f *record) (*runcState, error) {
	s := &runcState{}
	return s, json.Unmarshal(f.text, s)
}

func (s *runcState) label(key string) string {
	for _, l := range s.Config.Labels {
		if v, ok := strings.CutPrefix(l, key+"="); ok {
			return v
		}
	}
	return ""
}

// inode is the network namespace of the container's first process, or 0 where
// that has ended and its pid may be another's.
func (s *runcState) inode() uint64 {
	if start, err := startTime(s.Pid); err != nil || start != s.Start {
		return 0
	}
	return netInodeAt(fmt.Sprintf("/proc/%d/ns/net", s.Pid))
}

func netInodeAt(path string) uint64 {
	link, err := os.Readlink(path)
	if err != nil {
		return 0
	}
	n, _ := inodeOf([]byte(link), "net")
	return n
}

// startTime returns when a process started, in clock ticks since boot: the pid
// and this together name a process for good (proc_pid_stat(5), field 22).
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The command in parentheses may hold spaces and parentheses.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	const start = 22 - 3 // the first field after the command is number 3
	if len(fields) <= start {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields)+2)
	}
	return strconv.ParseUint(fields[start], 10, 64)
}

// userHz is what the kernel counts clock ticks in for user space, on every
// architecture that Go runs on (include/asm-generic/param.h).
const userHz = 100

func startedAt(pid int) (time.Time, error) {
	ticks, err := startTime(pid)
	if err != nil {
		return time.Time{}, err
	}
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return time.Time{}, err
	}
	age := time.Duration(boot.Nano()) - time.Duration(ticks)*time.Second/userHz
	return time.Now().Add(-age), nil
}
