package main
import ("context";"io")
func watch(ctx context.Context, args []string, stdout, stderr io.Writer) int { return 0 }
