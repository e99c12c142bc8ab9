package compat

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/heraldapi"
)

// TestOpenAPI holds the document of heraldapi to its handler: each request of the table
// and each answer is checked against it, and each path and each status that it has is
// met, but for those that need a fault.
func TestOpenAPI(t *testing.T) {
	document, err := openapi3.NewLoader().LoadFromData(heraldapi.Document)
	if err != nil {
		t.Fatal(err)
	}
	if err := document.Validate(t.Context(), openapi3.DisableExamplesValidation()); err != nil {
		t.Fatal(err)
	}
	router, err := legacy.NewRouter(document)
	if err != nil {
		t.Fatal(err)
	}
	const key = "a key for the document"
	s := newStation(t, nil)
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	t.Cleanup(func() { rdb.Close() })
	api, err := heraldapi.New(heraldapi.Config{Hub: s.Hub, Redis: rdb, Keys: []string{key}, MaxBody: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	handler := http.StripPrefix("/api", api)

	met := make(map[string][]int) // statuses by path
	for _, c := range openAPICalls(document) {
		request := httptest.NewRequest(c.method, "/api"+c.path, bytes.NewReader(c.body))
		request.Header = http.Header{"Authorization": {"Bearer " + key}, "Content-Type": {"application/json"}}
		for i := 0; i < len(c.headers); i += 2 {
			request.Header.Set(c.headers[i], c.headers[i+1])
		}
		route, params, err := router.FindRoute(request)
		if err != nil {
			t.Errorf("%s %s is not in the document: %v", c.method, c.path, err)
			continue
		}
		input := &openapi3filter.RequestValidationInput{
			Request: request, PathParams: params, Route: route,
			Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true},
		}
		if err := openapi3filter.ValidateRequest(t.Context(), input); (err == nil) != (c.status < 400 || c.status == 401 || c.status == 422) {
			t.Errorf("%s %s %s: the document says %v, the status is to be %d", c.method, c.path, c.body, err, c.status)
		}
		request.Body = io.NopCloser(bytes.NewReader(c.body))
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, request)
		if answer.Code != c.status {
			t.Errorf("%s %s %s: %d %s, want %d", c.method, c.path, c.body, answer.Code, answer.Body, c.status)
		}
		err = openapi3filter.ValidateResponse(t.Context(), &openapi3filter.ResponseValidationInput{
			RequestValidationInput: input, Status: answer.Code, Header: answer.Header(),
			Body: io.NopCloser(answer.Body), Options: input.Options,
		})
		if err != nil {
			t.Errorf("%s %s: answer of status %d: %v", c.method, c.path, answer.Code, err)
		}
		met[route.Path] = append(met[route.Path], answer.Code)
	}
	for path := range document.Paths.Map() {
		for _, status := range []int{200, 400, 401} {
			if !slices.Contains(met[path], status) {
				t.Errorf("no request to %s was answered with %d", path, status)
			}
		}
	}
}

type openAPICall struct {
	method, path string
	body         []byte
	headers      []string
	status       int
}

// openAPICalls returns the document's examples as requests, and others for each path.
func openAPICalls(document *openapi3.T) []openAPICall {
	calls := []openAPICall{
		{"GET", "/online?user=a&user=b", nil, nil, 200},
		{"GET", "/sessions?user=a", nil, nil, 200},
		{"GET", "/sessions?group=a&group=b", nil, nil, 200},
		{"GET", "/online", nil, nil, 400},
		{"GET", "/sessions?user=", nil, nil, 400},
		{"GET", "/online?user=a", nil, []string{"Authorization", "Bearer no"}, 401},
		{"GET", "/sessions?user=a", nil, []string{"Authorization", "Bearer no"}, 401},
		{"POST", "/send", []byte(`{"to":{"users":["a"]},"text":"a"}`), []string{"Idempotency-Key", "k"}, 200},
		{"POST", "/send", []byte(`{"to":{"users":["a"]},"text":"b"}`), []string{"Idempotency-Key", "k"}, 422},
		{"POST", "/send", []byte(`{"to":{"users":["a"]},"text":"a"}`), []string{"Idempotency-Key", ""}, 400},
		{"POST", "/send", []byte(`{"to":{"users":["a"]},"text":"a"}`), []string{"Content-Type", "text/plain"}, 415},
		{"POST", "/send", []byte(`{"to":{"users":["a"]},"text":1}`), nil, 400},
		{"POST", "/send", []byte(`{"to":{"users":[""]},"text":"a"}`), nil, 400},
		{"POST", "/deliver", []byte(`{"to":{"users":["a"]},"text":"a","timeout":0}`), nil, 400},
		{"POST", "/disconnect", []byte(`{"to":{"users":["a"]},"code":1}`), nil, 400},
	}
	for path, item := range document.Paths.Map() {
		if item.Post == nil {
			continue
		}
		for _, example := range item.Post.RequestBody.Value.Content.Get("application/json").Examples {
			body, err := json.Marshal(example.Value.Value)
			if err != nil {
				panic(err) // it comes from JSON
			}
			calls = append(calls,
				openAPICall{"POST", path, body, nil, 200},
				openAPICall{"POST", path, body, []string{"Authorization", "Bearer no"}, 401})
		}
		calls = append(calls, openAPICall{"POST", path, []byte(`{"to":{"users":["a"]},"txt":"a"}`), nil, 400})
	}
	return calls
}
