package demo

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// A Command is a program that runs the demo.
type Command struct {
	Name  string // the program's
	About string // what -h says first

	// Flags adds flags of the program's own. It may be nil.
	Flags func(*flag.FlagSet)

	// Prepare completes the options that the flags gave. It may be nil.
	Prepare func(*Options) error
}

// Main runs the command with the arguments of the process. If that fails
// it says why in one line, and exits with 1.
func (c Command) Main() {
	err := c.run(os.Args[1:])
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return
	}
	fmt.Fprintf(os.Stderr, "%s: %s\n", c.Name, strings.ReplaceAll(err.Error(), "\n", "; "))
	os.Exit(1)
}

func (c Command) run(args []string) error {
	options, err := c.parse(args)
	if err == nil && c.Prepare != nil {
		err = c.Prepare(&options)
	}
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	return Run(ctx, options)
}

func (c Command) parse(args []string) (Options, error) {
	options := Options{Out: os.Stdout, Log: os.Stderr}
	flags := flag.NewFlagSet(c.Name, flag.ContinueOnError)
	flags.StringVar(&options.Addr, "addr", "127.0.0.1:8080", "`address` of the front door")
	flags.IntVar(&options.Nodes, "nodes", 3, "`number` of nodes, 1 to 64")
	flags.StringVar(&options.Redis, "redis", "", "`URL` of a Redis to use: redis://, rediss://, unix://, redis+cluster:// or redis+sentinel:// (default: one inside this process)")
	if c.Flags != nil {
		c.Flags(flags)
	}

	// The flag package would print the usage below every fault.
	flags.Usage = func() {}
	flags.SetOutput(io.Discard)
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Println(c.About, "Flags:")
		flags.SetOutput(os.Stdout)
		flags.PrintDefaults()
	}
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("argument %q: there must be flags only", flags.Arg(0))
	}
	return options, err
}
