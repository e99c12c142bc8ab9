package heraldotel_test

import (
	"context"
	"fmt"
	"log"
	"net/http"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/observe/heraldotel"
)

func authenticate(*http.Request) (herald.Identity, error) { return herald.Identity{User: "42"}, nil }

func ExampleNewTracer() {
	exporter := tracetest.NewInMemoryExporter() // a service has one for OTLP
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithSampler(heraldotel.Sampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(0.01)))),
	)
	hub, err := herald.New(herald.Config{Tracer: heraldotel.NewTracer(provider), Authenticate: authenticate})
	if err != nil {
		log.Fatal(err)
	}
	defer hub.Shutdown(context.Background())

	parent, span := sdktrace.NewTracerProvider().Tracer("").Start(context.Background(), "request") // it is sampled
	defer span.End()
	if err := hub.Send(parent, herald.User("42"), herald.Text("Hello")); err != nil {
		log.Fatal(err)
	}
	provider.ForceFlush(context.Background())
	for _, s := range exporter.GetSpans() {
		fmt.Println(s.Name, s.SpanKind)
	}
	// Output: herald Send user producer
}
