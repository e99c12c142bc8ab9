//go:build !linux

package main

import (
	"errors"
	"net"
)

type poller struct{}

func newPoller() (*poller, error) { return nil, errors.New("the bench needs Linux: epoll, and /proc") }

func (*poller) add(*net.TCPConn, *client) error { return errors.ErrUnsupported }

func (*poller) run(func(*client, []byte)) {}

func (*poller) close() {}
