package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// since are the settings that herald has had since it can keep messages. What they set
// aside, an older one does not know.
var since = []string{" Retention: n.Retention,", "MaxHandshakes: -1, HandshakeRatePerAddr: -1, HandshakeRatePerUser: -1,", "Compression: true,"}

// buildOld builds the rig's node with herald as it was at a commit, in dir. That needs
// this repository's history.
func buildOld(dir, commit string) (program string, err error) {
	const root, rig, load = "../..", "internal/test/faultrig/node.go", "internal/test/load"
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o700); err != nil {
		return "", err
	}
	archive := exec.Command("git", "-C", root, "archive", commit)
	files, err := archive.Output()
	if err != nil {
		return "", fmt.Errorf("git archive %s: %w", commit, err)
	}
	extract := exec.Command("tar", "-x", "-C", tree)
	extract.Stdin = bytes.NewReader(files)
	if out, err := extract.CombinedOutput(); err != nil {
		return "", fmt.Errorf("tar: %w: %s", err, out)
	}
	if err := os.CopyFS(filepath.Join(tree, load, "now"), os.DirFS(filepath.Join(root, load))); err != nil {
		return "", err
	}
	node, err := os.ReadFile(filepath.Join(root, rig))
	if err != nil {
		return "", err
	}
	text := strings.Replace(string(node), "package faultrig", "package main", 1)
	text = strings.Replace(text, load+`"`, load+`/now"`, 1)
	for _, setting := range since {
		if strings.Count(text, setting) != 1 {
			return "", fmt.Errorf("%s has not once what an older herald does not know: %q", rig, setting)
		}
		text = strings.Replace(text, setting, "", 1)
	}
	main := filepath.Join(tree, "internal/test/oldnode")
	if err := os.MkdirAll(main, 0o700); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(main, "main.go"), []byte(text+"\nfunc main() { Main(nil) }\n"), 0o600); err != nil {
		return "", err
	}
	program = filepath.Join(dir, "oldnode")
	build := exec.Command("go", "build", "-o", program, "./internal/test/oldnode")
	build.Dir, build.Env = tree, append(os.Environ(), "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", commit, err, out)
	}
	return program, nil
}
