package herald

import (
	"fmt"
	"regexp"
	"strings"
)

// isRefusal says whether an error that Redis replied means that the server does
// not serve us now: whatever we asked for, it may do another time, or elsewhere,
// or when somebody has allowed it. The rest are mistakes that no waiting mends,
// such as a command that the server lacks.
func isRefusal(said string) bool {
	said = scriptError(said)
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

// scriptError returns the error of a script's command, which Redis 6.2 puts
// inside the script's own.
func scriptError(said string) string {
	if strings.HasPrefix(said, "ERR Error running script") {
		if inner := scriptCode.FindStringSubmatch(said); inner != nil {
			return inner[1]
		}
	}
	return said
}

// refused is e for the caller of a Bus.
func (e redisError) refused() error {
	if isRefusal(string(e)) {
		return fmt.Errorf("%w: refused by Redis: %w", ErrBusDown, e)
	}
	return fmt.Errorf("refused by Redis: %w", e)
}
