// Package js serves the browser's client to pages, so that a service and its page have
// the same version of it.
package js

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"net/http"
	"time"
)

//go:embed herald.min.js
var client []byte

// Handler returns a handler that serves the client, an ES module of 3.5 KB gzipped, which
// exports Herald:
//
//	mux.Handle("GET /herald.min.js", js.Handler())
//
// A page then has
//
//	import { Herald } from "/herald.min.js"
//
// The browser asks each time whether its copy is still the right one (RFC 9111 section
// 5.2.2.4). The module is sent uncompressed; a proxy in front may compress it.
func Handler() http.Handler {
	sum := sha256.Sum256(client)
	tag := `"` + hex.EncodeToString(sum[:16]) + `"`
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/javascript; charset=utf-8")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-cache")
		h.Set("ETag", tag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(client))
	})
}
