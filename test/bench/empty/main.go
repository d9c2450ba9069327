// Empty does nothing: what is left is the cost of running a Go program at all.
package main

func main() {}
