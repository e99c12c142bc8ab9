// Command chat shows herald at work: several nodes in one process, a front
// door that spreads connections over them, and a page to play with.
package main

import "github.com/heraldgo/herald/examples/chat/demo"

func main() {
	demo.Command{Name: "chat", About: "chat shows herald at work."}.Main()
}
