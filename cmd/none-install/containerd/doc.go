// Package containerd knows containerd's config: which containerd serves the node
// and with which files, what it makes of them on disk and has loaded, and what has
// to be written so that it gets runtime handlers of ours and differs in nothing else.
//
// A plan is a pure function of the files and of containerd's own dump of them. The
// package knows neither none-install's flags nor its state file, and it writes no file.
package containerd
