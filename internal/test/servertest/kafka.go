package servertest

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Kafka starts a Kafka with the jars that .ci/fetch has fetched, or skips the test.
// It is one process, broker and controller, without TLS and authentication. Its
// data survives Kill and Restart, and is removed when the test ends. The lines conf
// are added to its configuration
// (https://kafka.apache.org/documentation/#brokerconfigs).
func Kafka(t testing.TB, conf ...string) *Server {
	t.Helper()
	jars := filepath.Join(fetched(t, "kafka-4"), "*")
	if Find("java") == "" {
		skip(t, fmt.Sprintf("MISSING: java, so %s did not run", t.Name()))
	}
	dir := t.TempDir()
	addr, controller := FreeAddr(t), FreeAddr(t)
	file := filepath.Join(dir, "server.properties")
	lines := append([]string{
		"process.roles=broker,controller",
		"node.id=1",
		"controller.quorum.voters=1@" + controller,
		"controller.listener.names=CONTROLLER",
		"listeners=PLAINTEXT://" + addr + ",CONTROLLER://" + controller,
		"advertised.listeners=PLAINTEXT://" + addr,
		"listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"log.dirs=" + filepath.Join(dir, "data"),
		"auto.create.topics.enable=false",
	}, conf...)
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// A small JVM is enough for a test, and starts sooner.
	java := []string{"-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
		"-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.utils=info", "-cp", jars}
	run := func(args ...string) []string { return append(java[:len(java):len(java)], args...) }
	format := exec.Command("java", run("kafka.tools.StorageTool", "format", "--cluster-id", "heraldtestheraldtestAA", "--config", file)...)
	if out, err := format.CombinedOutput(); err != nil {
		t.Fatalf("format the directory of a Kafka: %v\n%s", err, out)
	}
	return Start(t, Command{
		Program:  "java",
		Package:  "openjdk-17-jre-headless",
		Args:     run("kafka.Kafka", file),
		Addr:     addr,
		Ready:    func() error { return answers(addr) },
		Patience: 3 * time.Minute,
	})
}

// answers returns nil if a Kafka at addr answers a request. A Kafka listens before
// it can answer.
func answers(addr string) error {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	// This is a request ApiVersions, key 18, in version 0: its size, key, version,
	// a number that the answer repeats, and no client id
	// (https://kafka.apache.org/protocol).
	if _, err := c.Write([]byte{0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff}); err != nil {
		return err
	}
	answer := make([]byte, 8) // its size and that number
	if _, err := io.ReadFull(c, answer); err != nil {
		return err
	}
	if answer[7] != 7 {
		return fmt.Errorf("not an answer to ApiVersions: %x", answer)
	}
	return nil
}
