package heraldprom

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// serve returns a node of the network, with its metrics at /metrics.
func serve(t *testing.T, network *herald.MemoryNetwork, registry *herald.MemoryRegistry) (*herald.Hub, *httptest.Server) {
	t.Helper()
	hub, err := herald.New(herald.Config{
		Bus: network.Bus(), Registry: registry, Retention: time.Minute, ProbeInterval: 100 * time.Millisecond, Lease: 30 * time.Second,
		Authenticate: func(r *http.Request) (herald.Identity, error) {
			user := r.URL.Query().Get("user")
			if user == "" {
				return herald.Identity{}, errors.New("who?")
			}
			return herald.Identity{User: user}, nil
		},
		OnMessage: func(context.Context, *herald.Conn, herald.Message) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(NewCollector(hub))
	mux := http.NewServeMux()
	mux.Handle("/ws", hub)
	mux.Handle("/metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	server := httptest.NewServer(mux)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		hub.Shutdown(ctx)
		server.Close()
	})
	return hub, server
}

// load has clients come, talk and go at a node until ctx is done.
func load(ctx context.Context, hub *herald.Hub, server *httptest.Server, node int) {
	for n := 0; ctx.Err() == nil; n++ {
		user := fmt.Sprint(node, "-", n%7)
		position, _ := hub.Position(ctx)
		query := url.Values{"user": {user}}
		if n%2 == 0 { // it comes back to where it was
			query.Set("herald", "1")
			query.Set("herald.from", position)
		}
		if n%5 == 0 {
			query.Del("user") // who is refused
		}
		ws, _, err := websocket.Dial(ctx, server.URL+"/ws?"+query.Encode(), nil)
		if err != nil {
			continue
		}
		go func() {
			for {
				if _, _, err := ws.Read(ctx); err != nil {
					return
				}
			}
		}()
		hub.Send(ctx, herald.Everyone(), herald.Text("hello"))
		for range 5 {
			ws.Write(ctx, websocket.MessageText, []byte("hello"))
			within, cancel := context.WithTimeout(ctx, 5*time.Second)
			hub.Deliver(within, herald.User(user), herald.Text("hello"))
			cancel()
		}
		ws.Close(websocket.StatusNormalClosure, "")
	}
}

// scrape starts a Prometheus that scrapes the nodes.
func scrape(t *testing.T, nodes []*httptest.Server, args ...string) *servertest.Server {
	t.Helper()
	dir, addr := t.TempDir(), servertest.FreeAddr(t)
	rules, err := filepath.Abs("alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, n := range nodes {
		targets = append(targets, fmt.Sprintf("%q", n.Listener.Addr()))
	}
	config := filepath.Join(dir, "prometheus.yml")
	text := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%q]\nscrape_configs: [{job_name: herald, static_configs: [{targets: [%s]}]}]\n", rules, strings.Join(targets, ", "))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return servertest.Start(t, servertest.Command{
		Program: "prometheus", Package: "prometheus", Addr: addr,
		Args: append([]string{"--config.file=" + config, "--storage.tsdb.path=" + dir, "--web.listen-address=" + addr}, args...),
		Ready: func() error {
			response, err := http.Get("http://" + addr + "/-/ready")
			if err != nil {
				return err
			}
			response.Body.Close()
			if response.StatusCode != http.StatusOK {
				return errors.New(response.Status)
			}
			return nil
		},
		Patience: patience,
	})
}

// ask returns the values that Prometheus answers a query with.
func ask(t *testing.T, addr, query string) (values []string) {
	t.Helper()
	response, err := http.Get("http://" + addr + "/api/v1/query?query=" + url.QueryEscape(query))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct {
		Error string
		Data  struct {
			Result []struct{ Value [2]any }
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || answer.Error != "" {
		t.Fatalf("%s: %v %s", query, err, answer.Error)
	}
	for _, r := range answer.Data.Result {
		if v := fmt.Sprint(r.Value[1]); v != "NaN" {
			values = append(values, v)
		}
	}
	return values
}

// Three nodes under load are scraped by a Prometheus, which answers each query of the
// dashboard. One that takes native histograms answers theirs.
func TestPrometheus(t *testing.T) {
	network, registry := herald.NewMemoryNetwork(), herald.NewMemoryRegistry()
	var hubs []*herald.Hub
	var nodes []*httptest.Server
	for range 3 {
		hub, server := serve(t, network, registry)
		hubs, nodes = append(hubs, hub), append(nodes, server)
	}
	classic, native := scrape(t, nodes), scrape(t, nodes, "--enable-feature=native-histograms")
	ctx, cancel := context.WithCancel(t.Context())
	var loads sync.WaitGroup
	defer loads.Wait()
	defer cancel()
	for i := range hubs {
		loads.Go(func() { load(ctx, hubs[i], nodes[i], i) })
	}
	for _, q := range queries(t, "30s") {
		await(t, fmt.Sprintf("an answer to %q: %s", q.panel, q.expr), func() bool { return len(ask(t, classic.Addr, q.expr)) > 0 })
	}
	for _, busy := range []string{
		`herald_sent_total`, `herald_written_total`, `herald_lag_seconds_count`, `herald_bus_round_trip_seconds_count`, `herald_registry_call_seconds_count`,
		`herald_callback_seconds_count{callback="OnMessage"}`, `herald_handshakes_total{outcome="accepted"}`, `herald_handshakes_total{outcome="unauthorized"}`,
		`herald_deliveries_total{outcome="received"}`, `herald_resumes_total{outcome="whole"}`, `herald_closes_total{by="client"}`,
	} {
		await(t, "three nodes with "+busy, func() bool { return len(ask(t, classic.Addr, busy+" > 0")) == 3 })
	}
	for _, q := range []string{
		`histogram_quantile(0.9, sum(rate(herald_lag_seconds[30s]))) > 0`,
		`histogram_count(herald_callback_seconds{callback="OnMessage"}) > 0`,
	} {
		await(t, "an answer of native histograms to "+q, func() bool { return len(ask(t, native.Addr, q)) > 0 })
	}
}
