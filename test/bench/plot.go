package main

func (b *bench) writePlot(file string) error { return nil }
