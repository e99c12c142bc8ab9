// Package heraldotel traces messages with OpenTelemetry, from Send to the nodes that
// have connections for them.
//
//	provider := sdktrace.NewTracerProvider(
//		sdktrace.WithBatcher(exporter),
//		sdktrace.WithSampler(heraldotel.Sampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(0.01)))),
//	)
//	hub, err := herald.New(herald.Config{Tracer: heraldotel.NewTracer(provider), …})
//
// A Send or Deliver is a span of kind producer, and a child of the span in its
// context. Each node that has connections for the message makes a span of kind
// consumer. It begins a trace of its own and links to that of the Send, because a
// message to a large group would make one trace of thousands of spans. A Send that is
// not sampled sends no trace along, and costs the other nodes nothing.
package heraldotel

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/heraldgo/herald"
)

const (
	scope       = "github.com/heraldgo/herald/observe/heraldotel"
	deliverSpan = "herald deliver"
)

// Attributes of the spans. Those that begin with messaging are of OpenTelemetry's
// semantic conventions for messaging spans. No id of a user, group or connection is
// among them.
const (
	system      = attribute.Key("messaging.system")
	operation   = attribute.Key("messaging.operation.name")
	kind        = attribute.Key("messaging.operation.type")
	destination = attribute.Key("messaging.destination.template")
	size        = attribute.Key("messaging.message.body.size")
	names       = attribute.Key("herald.target.names")
	connections = attribute.Key("herald.connections")
)

type tracer struct{ under trace.Tracer }

// NewTracer returns a Tracer for Config.Tracer, which makes its spans with the
// provider. Several Hubs may share it.
func NewTracer(provider trace.TracerProvider) herald.Tracer {
	return &tracer{provider.Tracer(scope)}
}

// TraceSend implements herald.Tracer.
func (t *tracer) TraceSend(ctx context.Context, s herald.TracedSend) (herald.TraceContext, func(error)) {
	_, span := t.under.Start(ctx, "herald "+s.Call+" "+s.Target, trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(
		system.String("herald"), operation.String(s.Call), kind.String("send"), destination.String(s.Target),
		size.Int(s.Size), names.Int(s.Names)))
	end := func(err error) {
		if err != nil {
			span.RecordError(err)
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}
	c := span.SpanContext()
	if !c.IsSampled() {
		return herald.TraceContext{}, end
	}
	return herald.TraceContext{TraceID: c.TraceID(), SpanID: c.SpanID(), Flags: byte(c.TraceFlags())}, end
}

// TraceDelivery implements herald.Tracer.
func (t *tracer) TraceDelivery(sent herald.TraceContext) func(conns int) {
	link := trace.Link{SpanContext: trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: sent.TraceID, SpanID: sent.SpanID, TraceFlags: trace.TraceFlags(sent.Flags), Remote: true,
	})}
	_, span := t.under.Start(context.Background(), deliverSpan, trace.WithSpanKind(trace.SpanKindConsumer), trace.WithLinks(link), trace.WithAttributes(
		system.String("herald"), operation.String("deliver"), kind.String("process")))
	return func(conns int) {
		span.SetAttributes(connections.Int(conns))
		span.End()
	}
}

// Sampler returns a Sampler that samples a delivery if its Send was sampled, and asks
// otherwise about all other spans. Without it a provider that samples one trace in a
// hundred would sample one delivery in a hundred of those Sends.
func Sampler(otherwise sdktrace.Sampler) sdktrace.Sampler { return sampler{otherwise} }

type sampler struct{ otherwise sdktrace.Sampler }

// ShouldSample implements sdktrace.Sampler.
func (s sampler) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if p.Name == deliverSpan && len(p.Links) == 1 && p.Links[0].SpanContext.IsSampled() {
		return sdktrace.SamplingResult{
			Decision:   sdktrace.RecordAndSample,
			Tracestate: trace.SpanContextFromContext(p.ParentContext).TraceState(),
		}
	}
	return s.otherwise.ShouldSample(p)
}

// Description implements sdktrace.Sampler.
func (s sampler) Description() string { return "Herald{" + s.otherwise.Description() + "}" }
