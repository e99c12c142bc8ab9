package house_test

import (
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
)

// know has the modules that the root module may import, and the places that may
// import each of them. So another version, or another library, changes little.
var know = map[string][]string{
	"github.com/coder/websocket": {
		"handshake.go",                                                                      // the server's side
		"heraldclient/", "heraldtest/", "internal/test/hubtest/", "internal/test/faultrig/", // clients
	},
	"github.com/redis/go-redis/v9": {
		"config.go", "bus_redis.go", "registry_redis.go", // in the public API: only the client
		"heraldapi/", // idempotency keys
		"internal/history/redislog/", "internal/redisbus/", "internal/redisconn/", "internal/redisregistry/",
		"internal/test/redistest/", "internal/test/faultrig/", "examples/",
	},
	"github.com/alicebob/miniredis/v2": {"examples/"},
}

// Other people's modules are imported only in the places that know lists.
func TestImports(t *testing.T) {
	idle := make(map[string]bool) // module and place
	for m, places := range know {
		for _, place := range places {
			idle[m+" "+place] = true
		}
	}
	for _, file := range product(t) {
		if nested(file) {
			continue
		}
		for _, imported := range imports(t, file) {
			m := moduleOf(imported)
			if m == "" {
				continue
			}
			place, ok := under(know[m], file)
			if !ok {
				t.Errorf("%s imports %s", file, imported)
			}
			delete(idle, m+" "+place)
		}
	}
	for _, unused := range slices.Sorted(maps.Keys(idle)) {
		t.Errorf("nothing of it is needed: %s", unused)
	}
}

// moduleOf returns the name that know has for the module of an imported package, or
// the package's own path if know has none. For the standard library and this module
// it returns "".
func moduleOf(imported string) string {
	if host, _, _ := strings.Cut(imported, "/"); !strings.Contains(host, ".") {
		return ""
	}
	for m := range know {
		if imported == m || strings.HasPrefix(imported, m+"/") {
			return m
		}
	}
	if imported == module || strings.HasPrefix(imported, module+"/") {
		return ""
	}
	return imported
}

// nested reports whether a file belongs to a module inside the root's.
func nested(file string) bool {
	for dir := path.Dir(file); dir != "."; dir = path.Dir(dir) {
		if _, err := fs.Stat(house, dir+"/go.mod"); err == nil {
			return true
		}
	}
	return false
}

// Internal packages do not use the root's types, because the root could not import
// them then.
func TestInternalKnowsNoRoot(t *testing.T) {
	for _, file := range product(t) {
		if !strings.HasPrefix(file, "internal/") || strings.HasPrefix(file, "internal/test/") {
			continue
		}
		for _, imported := range imports(t, file) {
			if imported == module || strings.HasPrefix(imported, module+"/") && !strings.HasPrefix(imported, module+"/internal/") || strings.HasPrefix(imported, module+"/internal/test/") {
				t.Errorf("%s imports %s", file, imported)
			}
		}
	}
}
