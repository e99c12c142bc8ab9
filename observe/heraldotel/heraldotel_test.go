package heraldotel_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/observe/heraldotel"
)

const patience = 30 * time.Second

// A rig is two nodes, each with a client of the user "u" in the group "g", and the
// spans that they make. A root span is sampled if its name is "root".
type rig struct {
	*testing.T
	hubs     [2]*herald.Hub
	spans    *tracetest.InMemoryExporter
	provider *sdktrace.TracerProvider
}

type rootsNamedRoot struct{}

func (rootsNamedRoot) ShouldSample(p sdktrace.SamplingParameters) (r sdktrace.SamplingResult) {
	if p.Name == "root" {
		r.Decision = sdktrace.RecordAndSample
	}
	return r
}

func (rootsNamedRoot) Description() string { return "rootsNamedRoot" }

func newRig(t *testing.T) *rig {
	r := &rig{T: t, spans: tracetest.NewInMemoryExporter()}
	r.provider = sdktrace.NewTracerProvider(sdktrace.WithSyncer(r.spans), sdktrace.WithSampler(heraldotel.Sampler(sdktrace.ParentBased(rootsNamedRoot{}))))
	network, registry := herald.NewMemoryNetwork(), herald.NewMemoryRegistry()
	for i := range r.hubs {
		hub, err := herald.New(herald.Config{
			Bus: network.Bus(), Registry: registry.Handle(), Tracer: heraldotel.NewTracer(r.provider), SendTimeout: patience,
			Authenticate: func(*http.Request) (herald.Identity, error) {
				return herald.Identity{User: "u", Groups: []string{"g"}}, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewServer(hub)
		t.Cleanup(func() {
			hub.Shutdown(context.Background())
			server.Close()
		})
		c, _, err := websocket.Dial(t.Context(), server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		read := make(chan struct{})
		go func() {
			defer close(read)
			for err == nil {
				_, _, err = c.Read(context.Background())
			}
		}()
		t.Cleanup(func() {
			c.CloseNow()
			<-read
		})
		r.hubs[i] = hub
	}
	return r
}

// await returns the spans, once there are n.
func (r *rig) await(n int) tracetest.SpanStubs {
	r.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		spans := r.spans.GetSpans()
		if len(spans) >= n {
			return spans
		}
		if time.Now().After(deadline) {
			r.Fatalf("after %v there are %d spans, want %d", patience, len(spans), n)
		}
	}
}

// value returns an attribute as text, or "" if there is none.
func value(s tracetest.SpanStub, key string) string {
	for _, a := range s.Attributes {
		if a.Key == attribute.Key(key) {
			return a.Value.String()
		}
	}
	return ""
}

// A Send of a sampled trace is a part of it, and each delivery is a trace of its own,
// linked to the Send, and sampled although its root would not be.
func TestSampled(t *testing.T) {
	r := newRig(t)
	ctx, root := r.provider.Tracer("test").Start(t.Context(), "root")
	if err := r.hubs[0].Send(ctx, herald.Group("g"), herald.Text("Hello")); err != nil {
		t.Fatal(err)
	}
	var send tracetest.SpanStub
	var deliveries tracetest.SpanStubs
	for _, s := range r.await(3) {
		if s.SpanKind == trace.SpanKindProducer {
			send = s
		} else {
			deliveries = append(deliveries, s)
		}
	}
	if send.Name != "herald Send group" || send.Parent.SpanID() != root.SpanContext().SpanID() || send.Status.Code != codes.Unset ||
		value(send, "messaging.message.body.size") != "5" || value(send, "herald.target.names") != "1" {
		t.Errorf("the Send is %+v", send)
	}
	for _, d := range deliveries {
		if d.Name != "herald deliver" || d.SpanKind != trace.SpanKindConsumer || d.Parent.IsValid() || d.SpanContext.TraceID() == send.SpanContext.TraceID() ||
			len(d.Links) != 1 || d.Links[0].SpanContext.SpanID() != send.SpanContext.SpanID() || d.Links[0].SpanContext.TraceID() != send.SpanContext.TraceID() ||
			value(d, "herald.connections") != "1" {
			t.Errorf("a delivery is %+v", d)
		}
	}
	root.End()
	if spans := r.await(4); len(spans) != 4 {
		t.Errorf("there are %d spans", len(spans))
	}
}

// What is not sampled leaves no span on any node.
func TestUnsampled(t *testing.T) {
	r := newRig(t)
	ctx, other := r.provider.Tracer("test").Start(t.Context(), "other")
	defer other.End()
	for _, ctx := range []context.Context{ctx, t.Context()} {
		if err := r.hubs[0].Send(ctx, herald.User("u"), herald.Text("Hello")); err != nil {
			t.Fatal(err)
		}
		// Its receipts come behind the message before.
		if _, err := r.hubs[0].Deliver(ctx, herald.User("u"), herald.Text("Hello")); err != nil {
			t.Fatal(err)
		}
	}
	if spans := r.spans.GetSpans(); len(spans) > 0 {
		t.Errorf("there are spans: %+v", spans)
	}
}

// The span of a Send that fails says so.
func TestError(t *testing.T) {
	r := newRig(t)
	ctx, root := r.provider.Tracer("test").Start(t.Context(), "root")
	defer root.End()
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := r.hubs[0].Deliver(ctx, herald.User("u"), herald.Text("Hello")); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	span := r.await(1)[0]
	if span.Name != "herald Deliver user" || span.Status.Code != codes.Error || !strings.Contains(span.Status.Description, "canceled") || len(span.Events) != 1 {
		t.Errorf("the span is %+v", span)
	}
}
