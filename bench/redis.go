package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// A redisServer is a real one, of the bench's own.
type redisServer struct {
	addr   string
	cmd    *exec.Cmd
	client *redis.Client
}

func startRedis() (*redisServer, error) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		return nil, fmt.Errorf("redis-server is not installed (Debian: apt-get install redis-server): %w", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	l.Close()
	return startRedisAt(addr)
}

func startRedisAt(addr string) (*redisServer, error) {
	_, port, _ := net.SplitHostPort(addr)
	r := &redisServer{addr: addr, cmd: exec.Command("redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "",
		"--client-output-buffer-limit", "pubsub 0 0 0", // who falls behind is not cut off
		"--dir", os.TempDir())}
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	r.client = redis.NewClient(&redis.Options{Addr: addr})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return r, nil
		}
		if time.Now().After(deadline) {
			r.stop()
			return nil, err
		}
	}
}

func (r *redisServer) flush() error { return r.client.FlushAll(context.Background()).Err() }

// cpu is the time that the server has used.
func (r *redisServer) cpu() (time.Duration, error) {
	user, err := r.number("cpu", "used_cpu_user")
	if err != nil {
		return 0, err
	}
	sys, err := r.number("cpu", "used_cpu_sys")
	return time.Duration((user + sys) * float64(time.Second)), err
}

// number returns a number that INFO names.
func (r *redisServer) number(section, name string) (float64, error) {
	info, err := r.client.Info(context.Background(), section).Result()
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+":"); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("INFO %s has no %s", section, name)
}

func (r *redisServer) stop() {
	r.client.Close()
	r.cmd.Process.Kill()
	r.cmd.Wait()
}
