package js

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHandler(t *testing.T) {
	h := Handler()
	get := func(known string) *http.Response {
		r := httptest.NewRequest("GET", "/herald.min.js", nil)
		r.Header.Set("If-None-Match", known)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Result()
	}
	first := get("")
	var body strings.Builder
	if err := first.Write(&body); err != nil {
		t.Fatal(err)
	}
	if kind := first.Header.Get("Content-Type"); first.StatusCode != 200 || kind != "text/javascript; charset=utf-8" || !strings.Contains(body.String(), " as Herald}") {
		t.Errorf("%s, %q: want the module", first.Status, kind)
	}
	if again := get(first.Header.Get("ETag")); again.StatusCode != http.StatusNotModified {
		t.Errorf("to whom has it already: %s", again.Status)
	}
}
