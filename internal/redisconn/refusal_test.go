package redisconn

import (
	"strings"
	"testing"
)

// Which errors of Redis mean that it does not serve us now.
func TestIsRefusal(t *testing.T) {
	for said, want := range map[string]bool{
		"WRONGPASS invalid username-password pair or user is disabled.":                    true,
		"NOAUTH Authentication required.":                                                  true,
		"NOPERM User app has no permissions to run the 'evalsha' command":                  true,
		"ERR max number of clients reached":                                                true,
		"ERR max number of clients + cluster connections reached":                          true,
		"ERR ACL failure in script: User app has no permissions to run the 'hset' command": true,
		"LOADING Redis is loading the dataset in memory":                                   true,
		"MASTERDOWN Link with MASTER is down":                                              true,
		"NOREPLICAS Not enough good replicas to write.":                                    true,
		"MISCONF Redis is configured to save RDB snapshots":                                true,
		"OOM command not allowed when used memory > 'maxmemory'.":                          true,
		"BUSY Redis is busy running a script.":                                             true,
		"CLUSTERDOWN The cluster is down":                                                  true,
		"READONLY You can't write against a read only replica.":                            true,
		"MOVED 13907 127.0.0.1:7002":                                                       true,
		"TRYAGAIN Multiple keys request during rehashing of slot":                          true,
		"DENIED Redis is running in protected mode":                                        true,
		"upstream failure": true, // Envoy
		"ERR Error running script (call to f_1): @user_script:8: @user_script: 8: -OOM not allowed":  true, // Redis 6.2
		"ERR Error running script (call to f_1): @user_script:8: @user_script: 8: -WRONGTYPE of key": false,
		"ERR Error running script (call to f_1): @user_script:8: WRONGTYPE Operation":                false,
		"ERR Error running script (call to f_1): @user_script:8: user_script:8: attempt to call nil": false,
		"ERR unknown command 'SUBSCRIBE', with args beginning with: 'x'":                             false,
		"ERR syntax error": false,
		"WRONGTYPE Operation against a key holding the wrong kind of value": false,
		"NOSCRIPT No matching script. Please use EVAL.":                     false,
	} {
		if got := IsRefusal(said); got != want {
			t.Errorf("%q: %t, want %t", said, got, want)
		}
		if got, want := strings.HasPrefix(ScriptError(said), "WRONGTYPE"), strings.Contains(said, "WRONGTYPE"); got != want {
			t.Errorf("%q has met a key of the wrong type: %t, want %t", said, got, want)
		}
	}
}
