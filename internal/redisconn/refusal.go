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

// Replied says whether err is what a server replied that begins with text.
func Replied(err error, text string) bool {
	said, ok := errors.AsType[Error](err)
	return ok && strings.HasPrefix(string(said), text)
}

// IsRefusal says whether an error that Redis replied means that the server does
// not serve us now: whatever we asked for, it may do another time, or elsewhere,
// or when somebody has allowed it. The rest are mistakes that no waiting mends,
// such as a command that the server lacks.
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

// scriptCode matches the error of a script's command in one of a script: with a
// '-' if Redis did not carry the command out at all.
var scriptCode = regexp.MustCompile(`@user_script: ?[0-9]+: -?([A-Z]+ .*)`)

// ScriptError returns the error of a script's command, which Redis 6.2 puts
// inside the script's own.
func ScriptError(said string) string {
	if strings.HasPrefix(said, "ERR Error running script") {
		if inner := scriptCode.FindStringSubmatch(said); inner != nil {
			return inner[1]
		}
	}
	return said
}

// IsWrongType says whether a command, or one of a script, has met a key of
// another type.
func IsWrongType(err error) bool {
	reply, ok := errors.AsType[redis.Error](err)
	return ok && strings.HasPrefix(ScriptError(reply.Error()), "WRONGTYPE")
}
