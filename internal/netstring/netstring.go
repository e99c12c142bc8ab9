// Package netstring writes strings of any bytes as <length>:<bytes>.
package netstring

import (
	"strconv"
	"strings"
)

// Append appends s to b.
func Append(b []byte, s string) []byte {
	b = strconv.AppendInt(b, int64(len(s)), 10)
	b = append(b, ':')
	return append(b, s...)
}

// Cut cuts the first netstring off s.
func Cut(s string) (field, rest string, ok bool) {
	length, rest, ok := strings.Cut(s, ":")
	n, err := strconv.ParseUint(length, 10, 31)
	if !ok || err != nil || n > uint64(len(rest)) {
		return "", "", false
	}
	return rest[:n], rest[n:], true
}
