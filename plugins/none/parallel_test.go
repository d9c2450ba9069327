package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/cni-none/cni-none/internal/nstest"
)

// TestParallel has 64 ADDs and DELs at once, on one namespace and on 64, with
// CHECKs among them from the first ADD on, as several runtimes and their retries would.
func TestParallel(t *testing.T) {
	const callers = 64
	for name, namespaces := range map[string]int{"on one namespace": 1, "on 64": callers} {
		t.Run(name, func(t *testing.T) {
			paths := make([]string, namespaces)
			for i := range paths {
				paths[i] = nstest.New(t).Path
			}
			files := countFiles(t)
			var wg sync.WaitGroup
			for i := range callers {
				wg.Go(func() {
					for _, command := range []string{"ADD", "CHECK", "DEL", "ADD", "CHECK"} {
						env := addEnv(paths[i%namespaces])
						env["CNI_COMMAND"] = command
						var stdout, stderr bytes.Buffer
						if status := asProcess(env, strings.NewReader(plainConf), &stdout, &stderr); status != 0 {
							t.Errorf("%s: %d: %s%s", command, status, &stdout, &stderr)
						}
					}
				})
			}
			wg.Wait()
			for _, path := range paths {
				if lo := describeLo(path); lo != whole {
					t.Errorf("lo is %q", lo)
				}
			}
			if after := countFiles(t); after > files {
				t.Errorf("%d open files, %d before", after, files)
			}
			if left := children(t); left != "" {
				t.Errorf("processes are left: %s", left)
			}
		})
	}
}

func countFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// children lists the processes of all threads of this one.
func children(t *testing.T) string {
	t.Helper()
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	var all string
	for _, list := range lists {
		b, err := os.ReadFile(list)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
		all += string(b)
	}
	return all
}
