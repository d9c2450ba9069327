// Peak runs the program in $PEAK_PROGRAM and writes its peak memory, in KiB, to
// the file in $PEAK_FILE.
//
// The kernel starts ru_maxrss of a program at what its parent had resident
// (exec_mmap, fs/exec.c), so the parent has to be smaller than anything it
// measures: hence a program of its own, and one that does without package os.
package main

import (
	"strconv"
	"syscall"
)

func main() {
	program, _ := syscall.Getenv("PEAK_PROGRAM")
	file, _ := syscall.Getenv("PEAK_FILE")
	pid, err := syscall.ForkExec(program, []string{program}, &syscall.ProcAttr{Env: syscall.Environ(), Files: []uintptr{0, 1, 2}})
	check(err)
	var status syscall.WaitStatus
	var usage syscall.Rusage
	_, err = syscall.Wait4(pid, &status, 0, &usage)
	check(err)
	fd, err := syscall.Open(file, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_TRUNC, 0o600)
	check(err)
	_, err = syscall.Write(fd, strconv.AppendInt(nil, usage.Maxrss, 10))
	check(err)
	syscall.Exit(status.ExitStatus())
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
