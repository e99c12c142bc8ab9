package redisconn

import (
	"errors"
	"regexp"
	"strings"

	"github.com/redis/go-redis/v9"
)

// An Error is an error that Redis replied: the command was not carried out.
type Error string

// Error is what Redis said.
func (e Error) Error() string { return string(e) }

// Replied reports whether err is an error reply that begins with text.
func Replied(err error, text string) bool {
	said, ok := errors.AsType[Error](err)
	return ok && strings.HasPrefix(string(said), text)
}

// IsRefusal reports whether an error reply means that the server does not serve us now:
// it may carry out the command later, or another server may, or this one after
// somebody has allowed it. All other errors are mistakes that do not go away by
// waiting, such as a command that the server lacks.
func IsRefusal(said string) bool {
	said = ScriptError(said)
	code, text, _ := strings.Cut(said, " ")
	switch code {
	case "ERR":
		return strings.HasPrefix(text, "max number of clients") || strings.HasPrefix(text, "ACL failure in script")
	case "WRONGTYPE", "CROSSSLOT", "NOSCRIPT", "NOPROTO":
		return false
	}
	return true
}

// scriptCode finds the error of a command in that of its script. It has a '-' if
// Redis did not carry out the command at all.
var scriptCode = regexp.MustCompile(`@user_script: ?[0-9]+: -?([A-Z]+ .*)`)

// ScriptError returns the error of a script's command, which Redis 6.2 wraps in the
// script's own.
func ScriptError(said string) string {
	if strings.HasPrefix(said, "ERR Error running script") {
		if inner := scriptCode.FindStringSubmatch(said); inner != nil {
			return inner[1]
		}
	}
	return said
}

// IsWrongType reports whether a command, alone or in a script, has met a key of another
// type.
func IsWrongType(err error) bool {
	reply, ok := errors.AsType[redis.Error](err)
	return ok && strings.HasPrefix(ScriptError(reply.Error()), "WRONGTYPE")
}
