package heraldapi_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldapi"
	"github.com/heraldgo/herald/heraldtest"
)

const key = "a key for the tests"

// serve mounts a Handler and returns what asks it: a method, a path, a body and pairs
// of headers.
func serve(t *testing.T, config heraldapi.Config) func(method, path, body string, headers ...string) (int, map[string]any) {
	t.Helper()
	if config.Authorize == nil && config.Keys == nil {
		config.Keys = []string{key}
	}
	api, err := heraldapi.New(config)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.StripPrefix("/api", api))
	t.Cleanup(server.Close)
	return func(method, path, body string, headers ...string) (int, map[string]any) {
		t.Helper()
		r, err := http.NewRequest(method, server.URL+"/api"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+key)
		r.Header.Set("Content-Type", "application/json")
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		var answer map[string]any
		if err := json.Unmarshal(b, &answer); err != nil {
			t.Fatalf("%s %s: %d, body %q: %v", method, path, resp.StatusCode, b, err)
		}
		return resp.StatusCode, answer
	}
}

// code returns the code of a failed answer.
func code(answer map[string]any) string {
	problem, _ := answer["error"].(map[string]any)
	code, _ := problem["code"].(string)
	return code
}

func newRedis(t *testing.T) (*miniredis.Miniredis, redis.UniversalClient) {
	t.Helper()
	server := miniredis.RunT(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	t.Cleanup(func() { rdb.Close() })
	return server, rdb
}

// TestCalls makes each call once, on a node that does not have the user.
func TestCalls(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 2, herald.Config{})
	anna := cluster.Connect(1, herald.Identity{User: "anna", Device: "phone", Platform: "ios"})
	bert := cluster.Connect(0, herald.Identity{User: "bert"})
	ask := serve(t, heraldapi.Config{Hub: cluster.Nodes[0].Hub})

	expect := func(status int, want, method, path, body string) map[string]any {
		t.Helper()
		got, answer := ask(method, path, body)
		text, _ := json.Marshal(answer)
		if got != status || want != "" && string(text) != want {
			t.Fatalf("%s %s %s: %d %s, want %d %s", method, path, body, got, text, status, want)
		}
		return answer
	}
	expect(200, `{"sent":1}`, "POST", "/send", `{"to": {"users": ["anna"]}, "text": "hello"}`)
	anna.Expect("hello")
	expect(200, `{"sent":3}`, "POST", "/send", `[
		{"to": {"users": ["anna"]}, "json": {"a": [1, "<b>"]}},
		{"to": {"users": ["anna"]}, "binary": "aGVsbG8="},
		{"to": {"everyone": true, "exceptUsers": ["bert"]}, "text": "all but bert", "unkept": true, "conflate": "key"}]`)
	anna.Expect(`{"a": [1, "<b>"]}`, "hello", "all but bert")

	expect(200, `{}`, "POST", "/join", `{"to": {"users": ["anna", "bert"]}, "groups": ["room"]}`)
	expect(200, `{"sent":2}`, "POST", "/send", `[
		{"to": {"groups": ["room"]}, "text": "to the room"},
		{"to": {"groups": ["room"], "platforms": ["ios"]}, "text": "to iOS"}]`)
	anna.Expect("to the room", "to iOS")
	bert.Expect("to the room")
	bert.ExpectNothing()
	expect(200, `{}`, "POST", "/leave", `{"to": {"users": ["bert"]}, "groups": ["room"]}`)

	expect(200, `{"online":{"anna":true,"carl":false}}`, "GET", "/online?user=anna&user=carl", "")
	answer := expect(200, "", "GET", "/sessions?group=room", "")
	session := answer["sessions"].([]any)[0].(map[string]any)
	if len(answer["sessions"].([]any)) != 1 || session["user"] != "anna" || session["device"] != "phone" || session["node"] != cluster.Nodes[1].Hub.NodeID() {
		t.Errorf("sessions of the room: %v", answer)
	}
	id := session["id"].(string)
	expect(200, `{"sent":1}`, "POST", "/send", fmt.Sprintf(`{"to": {"connections": [%q]}, "text": "to one"}`, id))
	anna.Expect("to one")
	if got := expect(200, "", "GET", "/sessions?user=anna&user=bert", ""); len(got["sessions"].([]any)) != 2 {
		t.Errorf("sessions of anna and bert: %v", got)
	}

	received := make(chan struct{})
	go func() { // a ping is answered by who reads
		defer close(received)
		anna.Receive()
		anna.ExpectClose(4001)
	}()
	answer = expect(200, "", "POST", "/deliver", `{"to": {"users": ["anna", "carl"]}, "text": "got it?", "timeout": 20}`)
	if answer["receivedTotal"] != 1.0 || answer["missedTotal"] != 0.0 || answer["received"].([]any)[0].(map[string]any)["id"] != id {
		t.Errorf("deliver: %v", answer)
	}
	expect(200, `{}`, "POST", "/disconnect", `{"to": {"users": ["anna"]}, "code": 4001, "reason": "signed out"}`)
	<-received
	expect(200, `{"online":{"anna":false}}`, "GET", "/online?user=anna", "")
}

// TestRefusals makes requests that break a rule. Nothing of them is carried out.
func TestRefusals(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 1, herald.Config{MaxSendSize: 1000})
	anna := cluster.Connect(0, herald.Identity{User: "anna"})
	ask := serve(t, heraldapi.Config{Hub: cluster.Nodes[0].Hub, MaxBody: 100_000})
	to := `"to": {"users": ["anna"]}`

	for _, c := range []struct {
		method, path, body string
		status             int
		field, rule        string
	}{
		{"POST", "/send", ``, 400, "", "body: EOF"},
		{"POST", "/send", `{` + to + `, "text": "a"} {}`, 400, "", "nothing behind it"},
		{"POST", "/send", `{` + to + `, "text": "a", "txt": ""}`, 400, "", `unknown field "txt"`},
		{"POST", "/send", `{` + to + `, "text": 1}`, 400, "text", "number: must be a string"},
		{"POST", "/send", `{"to": {"users": "anna"}, "text": "a"}`, 400, "to.users", "must be an array"},
		{"POST", "/send", "{" + to + ", \"text\": \"\xff\"}", 400, "", "must be UTF-8"},
		{"POST", "/send", `{` + to + `}`, 400, "", "exactly one of text, json and binary"},
		{"POST", "/send", `{` + to + `, "text": "a", "json": null}`, 400, "", "exactly one of text, json and binary"},
		{"POST", "/send", `{` + to + `, "binary": "a"}`, 400, "binary", "base64"},
		{"POST", "/send", `{"text": "a"}`, 400, "to", "exactly one of users, groups"},
		{"POST", "/send", `{"to": {"users": ["anna"], "everyone": true}, "text": "a"}`, 400, "to", "exactly one of users, groups"},
		{"POST", "/send", `{"to": {"users": ["anna", ""]}, "text": "a"}`, 400, "to.users[1]", "must not be empty"},
		{"POST", "/send", `[{` + to + `, "text": "a"}, {"text": "b"}]`, 400, "[1].to", "exactly one of users"},
		{"POST", "/send", `{"to": {"connections": ["x"]}, "text": "a"}`, 400, "", "<node>.<counter>"},
		{"POST", "/send", `{` + to + `, "text": "` + strings.Repeat("a", 1001) + `"}`, 400, "", "MaxSendSize"},
		{"POST", "/send", `{` + to + `, "text": "` + strings.Repeat("a", 100_000) + `"}`, 413, "", "MaxBody"},
		{"POST", "/send", "[" + strings.Repeat("{},", 1000) + "{}]", 400, "", "1001 messages: must be at most 1000"},
		{"POST", "/deliver", `{` + to + `, "text": 1}`, 400, "text", "must be a string"},
		{"POST", "/deliver", `{` + to + `, "text": "a", "timeout": 61}`, 400, "timeout", "at most 60"},
		{"POST", "/deliver", `{` + to + `, "text": "a", "timeout": 0}`, 400, "timeout", "more than 0"},
		{"POST", "/join", `{` + to + `}`, 400, "groups", "at least one"},
		{"POST", "/join", `{"groups": ["g"]}`, 400, "to", "exactly one"},
		{"POST", "/disconnect", `{` + to + `, "code": 1}`, 400, "", "code"},
		{"POST", "/disconnect", `{` + to + `, "code": 70000}`, 400, "code", "whole number"},
		{"GET", "/online", "", 400, "", "exactly one of user"},
		{"GET", "/online?user=", "", 400, "user", "not empty"},
		{"GET", "/online?group=a", "", 400, "group", "must be user"},
		{"GET", "/sessions?user=a&group=b", "", 400, "", "exactly one of user, group"},
		{"GET", "/send", "", 405, "", "must be POST"},
		{"POST", "/online", "", 405, "", "must be GET"},
		{"POST", "/else", "", 404, "", "/else"},
	} {
		status, answer := ask(c.method, c.path, c.body)
		problem, _ := answer["error"].(map[string]any)
		field, _ := problem["field"].(string)
		message, _ := problem["message"].(string)
		if status != c.status || field != c.field || !strings.Contains(message, c.rule) {
			t.Errorf("%s %s %.80s: %d %v, want %d, field %q, %q", c.method, c.path, c.body, status, answer, c.status, c.field, c.rule)
		}
	}
	if status, answer := ask("POST", "/send", "{"+to+`, "text": "a"}`, "Content-Type", "text/plain"); status != 415 {
		t.Errorf("text/plain: %d %v, want 415", status, answer)
	}
	if status, answer := ask("POST", "/send", "{"+to+`, "text": "a"}`, "Idempotency-Key", "k"); status != 400 || code(answer) != "invalid" {
		t.Errorf("a key without Redis: %d %v, want 400", status, answer)
	}
	anna.ExpectNothing()
}

// TestLongBatch sends arrays that are far too long. Their messages are counted, and not
// decoded.
func TestLongBatch(t *testing.T) {
	ask := serve(t, heraldapi.Config{Hub: heraldtest.NewCluster(t, 1, herald.Config{}).Nodes[0].Hub})
	for element, want := range map[string]string{
		"{}": "100001 messages: must be at most 1000", "[]": "100001 messages", "1": "100001 messages", "null": "100001 messages",
		"{]": "body: invalid character",
	} {
		body := "[" + strings.Repeat("{},", 100_000) + element + "]"
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		status, answer := ask("POST", "/send", body)
		runtime.ReadMemStats(&after)
		if status != 400 || !strings.Contains(fmt.Sprint(answer), want) {
			t.Errorf("with %s at the end: %d %v, want 400 with %q", element, status, answer, want)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 5<<20 {
			t.Errorf("with %s at the end: a body of %d bytes took %d", element, len(body), took)
		}
	}
}

// TestCallers checks who may ask.
func TestCallers(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 1, herald.Config{})
	hub := cluster.Nodes[0].Hub
	ask := serve(t, heraldapi.Config{Hub: hub})
	for _, header := range []string{"", key, "Bearer", "Bearer " + key + "x", "Basic " + key} {
		if status, answer := ask("GET", "/online?user=a", "", "Authorization", header); status != 401 || code(answer) != "unauthorized" {
			t.Errorf("Authorization %q: %d %v, want 401", header, status, answer)
		}
	}
	if status, answer := ask("GET", "/online?user=a", "", "Authorization", "bearer "+key); status != 200 {
		t.Errorf("bearer in small letters: %d %v, want 200", status, answer)
	}
	ask = serve(t, heraldapi.Config{Hub: hub, Authorize: func(r *http.Request) (string, error) {
		switch r.Header.Get("Who") {
		case "":
			return "", errors.New("secret reason")
		case "banned":
			return "", &herald.HTTPError{Status: 402, Message: "pay first"}
		case "odd":
			status, err := strconv.Atoi(r.Header.Get("Status"))
			return "", cmp.Or(err, error(&herald.HTTPError{Status: status, Message: "odd"}))
		}
		return "me", nil
	}})
	if status, answer := ask("GET", "/online?user=a", ""); status != 403 || strings.Contains(fmt.Sprint(answer), "secret") {
		t.Errorf("refused: %d %v, want 403 without the reason", status, answer)
	}
	if status, answer := ask("GET", "/online?user=a", "", "Who", "banned"); status != 402 || !strings.Contains(fmt.Sprint(answer), "pay first") {
		t.Errorf("refused by an HTTPError: %d %v, want 402", status, answer)
	}
	for _, odd := range []int{0, 99, 200, 204, 302, 399, 600, 1000} {
		if status, answer := ask("GET", "/online?user=a", "", "Who", "odd", "Status", strconv.Itoa(odd)); status != 403 || code(answer) != "forbidden" {
			t.Errorf("refused by an HTTPError with status %d: %d %v, want 403", odd, status, answer)
		}
	}
	if status, answer := ask("GET", "/online?user=a", "", "Who", "me"); status != 200 {
		t.Errorf("allowed: %d %v, want 200", status, answer)
	}
}

// TestConfig makes a Handler of each Config that breaks a rule.
func TestConfig(t *testing.T) {
	hub := heraldtest.NewCluster(t, 1, herald.Config{}).Nodes[0].Hub
	keys := []string{key}
	for want, config := range map[string]heraldapi.Config{
		"Config.Hub: nil: must be set": {Keys: keys},
		"Keys, Authorize: exactly":     {Hub: hub},
		"Keys[1]: 5 bytes: must":       {Hub: hub, Keys: []string{key, "short"}},
		"MaxBody: -1: must":            {Hub: hub, Keys: keys, MaxBody: -1},
		"MaxRequests: -1: must":        {Hub: hub, Keys: keys, MaxRequests: -1},
		"Timeout: -1s: must be po":     {Hub: hub, Keys: keys, Timeout: -time.Second},
		"Timeout: 2m0s: must be p":     {Hub: hub, Keys: keys, Timeout: 2 * time.Minute},
	} {
		if _, err := heraldapi.New(config); !errors.Is(err, herald.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("New: %v, want ErrInvalid with %q", err, want)
		}
	}
}

// TestMaxRequests checks that requests above the bound are refused, and not kept waiting.
func TestMaxRequests(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 1, herald.Config{})
	entered, leave := make(chan struct{}), make(chan struct{})
	ask := serve(t, heraldapi.Config{Hub: cluster.Nodes[0].Hub, MaxRequests: 1, Authorize: func(*http.Request) (string, error) {
		entered <- struct{}{}
		<-leave
		return "me", nil
	}})
	var wg sync.WaitGroup
	wg.Go(func() {
		if status, answer := ask("GET", "/online?user=a", ""); status != 200 {
			t.Errorf("the first request: %d %v, want 200", status, answer)
		}
	})
	<-entered
	if status, answer := ask("GET", "/online?user=a", ""); status != 503 || code(answer) != "busy" {
		t.Errorf("the second request: %d %v, want 503 busy", status, answer)
	}
	close(leave)
	wg.Wait()
}

// TestFaults checks what a request is told if the Hub cannot carry it out.
func TestFaults(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 1, herald.Config{})
	node := cluster.Nodes[0]
	ask := serve(t, heraldapi.Config{Hub: node.Hub})
	body := `{"to": {"users": ["anna"]}, "text": "a"}`
	node.Bus.Cut()
	if status, answer := ask("POST", "/send", body); status != 503 || code(answer) != "bus_down" || answer["sent"] != 0.0 {
		t.Errorf("without a Bus: %d %v, want 503 bus_down, sent 0", status, answer)
	}
	node.Bus.Heal()
	batch := `[{"to": {"users": ["anna"]}, "text": "a"}, {"to": {"connections": ["x"]}, "text": "b"}, {"to": {"users": ["anna"]}, "text": "c"}]`
	if status, answer := ask("POST", "/send", batch); status != 504 || code(answer) != "in_part" || answer["sent"] != 1.0 {
		t.Errorf("an array whose second message fails: %d %v, want 504 in_part, sent 1", status, answer)
	}
	node.Registry.Cut()
	if status, answer := ask("GET", "/online?user=a", ""); status != 503 || code(answer) != "registry_down" {
		t.Errorf("without a Registry: %d %v, want 503 registry_down", status, answer)
	}
	node.Registry.Heal()
	if err := node.Hub.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if status, answer := ask("POST", "/send", body); status != 503 || code(answer) != "closed" {
		t.Errorf("after Shutdown: %d %v, want 503 closed", status, answer)
	}
}
