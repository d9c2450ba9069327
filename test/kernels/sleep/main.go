// Command sleep is a /bin/sleep that runs under any name: busybox's goes by it.
package main

import (
	"os"
	"time"
)

func main() {
	d, err := time.ParseDuration(os.Args[len(os.Args)-1] + "s")
	if err != nil {
		os.Exit(2)
	}
	time.Sleep(d)
}
