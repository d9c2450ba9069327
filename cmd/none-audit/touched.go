package main

import (
	"context"
	"os"
	"slices"
	"time"
)

// touchedEvery is how often the directories are asked when they last changed.
const touchedEvery = 500 * time.Millisecond

// touched says that the runtimes of root have recorded or forgotten an attachment
// since it was last received from: there is a new container, or one less. A directory
// on a file server that does not answer holds up this alone.
func (s *sources) touched(ctx context.Context) <-chan struct{} {
	said := make(chan struct{}, 1)
	dirs := append(below(cniCaches, "results"), s.caches...)
	go func() {
		every := time.NewTicker(touchedEvery)
		defer every.Stop()
		for before := changes(dirs); ; {
			select {
			case <-ctx.Done():
				return
			case <-every.C:
			}
			now := changes(dirs)
			if slices.Equal(now, before) {
				continue
			}
			before = now
			select {
			case said <- struct{}{}:
			default:
			}
		}
	}()
	return said
}

// changes are the times at which a file was last put into or taken out of each
// directory: 0 where there is none.
func changes(dirs []string) []int64 {
	times := make([]int64, len(dirs))
	for i, dir := range dirs {
		if st, err := os.Stat(dir); err == nil {
			times[i] = st.ModTime().UnixNano()
		}
	}
	return times
}
