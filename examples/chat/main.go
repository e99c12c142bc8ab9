// Command chat shows herald at work: several nodes in one process, a front
// door that spreads connections over them, and a page to play with.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/heraldgo/herald/examples/chat/demo"
)

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "chat:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	options, err := parse(args)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	return demo.Run(ctx, options)
}

func parse(args []string) (demo.Options, error) {
	options := demo.Options{Out: os.Stdout, Log: os.Stderr}
	flags := flag.NewFlagSet("chat", flag.ContinueOnError)
	flags.StringVar(&options.Addr, "addr", "127.0.0.1:8080", "`address` of the front door")
	flags.IntVar(&options.Nodes, "nodes", 3, "`number` of nodes, 1 to 64")
	flags.StringVar(&options.Redis, "redis", "", "`URL` of a Redis to use: redis://, rediss:// or unix:// (default: one inside this process)")

	// The flag package would print the usage below every fault.
	flags.Usage = func() {}
	flags.SetOutput(io.Discard)
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Println("chat shows herald at work. Flags:")
		flags.SetOutput(os.Stdout)
		flags.PrintDefaults()
	}
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("argument %q: there must be flags only", flags.Arg(0))
	}
	return options, err
}
