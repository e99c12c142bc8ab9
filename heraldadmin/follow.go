package heraldadmin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/heraldgo/herald"
)

// probing is how long a probe may take. A client that is well answers within a second.
const probing = 4 * time.Second

// A step is a part of a message's way, as the page tells it.
type step struct {
	At   float64 `json:"at"` // milliseconds from the beginning on; 0 is none
	Kind string  `json:"kind"`
	Text string  `json:"text"`
}

// The kinds of a step.
const (
	passed  = "passed"
	doubted = "doubted" // it may be the reason
	ended   = "ended"   // the way ends here, for this reason
)

// A way is what the page shows of a probe: the steps that all connections share, and
// then those of each.
type way struct {
	Steps []step    `json:"steps"`
	Conns []connWay `json:"conns"`
}

type connWay struct {
	Conn  connView `json:"conn"`
	Steps []step   `json:"steps"`
}

// follow serves POST follow: a probe to a user, perhaps on some platforms only.
func (h *Handler) follow(r *http.Request) (any, error) {
	var body struct {
		User      string   `json:"user"`
		Platforms []string `json:"platforms"` // none is all
	}
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	if body.User == "" {
		return nil, &fault{http.StatusBadRequest, "user: must not be empty"}
	}
	h.log.Info("heraldadmin: follow", "who", r.Context().Value(whoKey{}), "user", body.User)
	to := herald.User(body.User)
	if len(body.Platforms) > 0 {
		to = to.On(body.Platforms...)
	}
	ctx, cancel := within(r, probing)
	result, err := h.hub.Probe(ctx, to)
	cancel()
	ctx, cancel = within(r, patience)
	defer cancel()
	e := explainer{platforms: body.Platforms}
	e.ask(ctx, h.hub, body.User, result)
	w := &way{Steps: h.shared(body.User, result, err), Conns: []connWay{}}
	for _, c := range result.Conns {
		v := viewOfSession(c.Session)
		if report, ok := e.conns[c.Session.ID]; ok {
			v = viewOfConn(report)
		}
		w.Conns = append(w.Conns, connWay{Conn: v, Steps: e.steps(c)})
	}
	return w, nil
}

// shared tells the steps that are the same for all connections.
func (h *Handler) shared(user string, result herald.ProbeResult, err error) []step {
	steps := []step{{0, passed, "Node " + h.hub.NodeID() + " sends."}}
	if health := h.hub.Health(); health != nil {
		steps = append(steps, step{0, doubted, "This node is not well: " + oneLine(health)})
	}
	listed := len(result.Conns)
	switch {
	case listed > 0:
		steps = append(steps, step{ms(result.Listed), passed, fmt.Sprintf("The Registry lists %s of the user.", count(listed, "connection"))})
	case err == nil:
		why := "No session: the Registry lists no connection of this user. Nobody has connected with exactly this id, or the last connection has gone. " +
			"A service that has another Prefix, Redis or database does not see it either."
		if len(result.Elsewhere) > 0 {
			why = "No session here: the user is connected to a service with " + strings.Join(result.Elsewhere, ", ") + ". " +
				"Services reach each other's connections only if their Config.Prefix and database are the same."
		}
		return append(steps, step{ms(result.Listed), ended, why})
	}
	switch {
	case err != nil && result.Sent == 0:
		text := "The Bus did not take it: "
		if errors.Is(err, herald.ErrRegistryDown) && listed == 0 {
			text = "The Registry does not say which connections there are: "
		}
		steps = append(steps, step{0, ended, text + oneLine(err)})
	case result.Sent != 0:
		steps = append(steps, step{ms(result.Sent), passed, "The Bus has taken it."})
	}
	return steps
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// An explainer has what is needed to say why a probe did not arrive.
type explainer struct {
	platforms []string
	conns     map[string]herald.ConnReport // by id
	err       error                        // of the question for conns
	nodes     map[string]herald.NodeReport // by id; only if one of them was not heard
	older     bool                         // one of the connections is on an older node
}

// ask asks the nodes for the present state of the connections.
func (e *explainer) ask(ctx context.Context, hub *herald.Hub, user string, result herald.ProbeResult) {
	e.conns, e.nodes = make(map[string]herald.ConnReport), make(map[string]herald.NodeReport)
	unheard := false
	for _, c := range result.Conns {
		unheard = unheard || c.Outcome == herald.ProbeUnheard
		e.older = e.older || c.Outcome == herald.ProbeOlder
	}
	if len(result.Conns) == 0 {
		return
	}
	var reports []herald.ConnReport
	reports, e.err = hub.Inspect(ctx, herald.User(user)) // the steps tell what is missing
	for _, c := range reports {
		e.conns[c.Session.ID] = c
	}
	if unheard {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		for _, n := range hub.Reports(ctx) {
			e.nodes[n.Node] = n
		}
	}
}

// steps tells the steps of one connection, and why they ended.
func (e *explainer) steps(c herald.ProbedConn) (steps []step) {
	if c.Reached != 0 {
		steps = append(steps, step{ms(c.Reached), passed, "Node " + c.Session.Node + " has it from the Bus."})
	}
	if c.Outcome == herald.ProbeAnswered {
		return append(steps, step{ms(c.Answered), passed, "The client has received it: it has answered the ping."})
	}
	return append(steps, step{0, ended, e.why(c)})
}

func (e *explainer) why(c herald.ProbedConn) string {
	report, known := e.conns[c.Session.ID]
	state := ""
	if known {
		state = describe(report.Stats)
	}
	switch c.Outcome {
	case herald.ProbeLeftOut:
		if c.Session.Platform == "" {
			return fmt.Sprintf("Left out: the message is for %s only, and this connection has no platform. Authenticate has set no Identity.Platform.", quoted(e.platforms))
		}
		return fmt.Sprintf("Left out: the message is for %s only, and this connection's platform is %q.", quoted(e.platforms), c.Session.Platform)
	case herald.ProbeFull:
		return "Full queue: " + state + " A message would be dropped, or the connection closed as too slow (DropOldest)."
	case herald.ProbeUnanswered:
		if known && report.Stats.Queued > 0 {
			return "Slow client: it does not take what is written to it. " + state
		}
		return "No answer: it was written to the connection, and the client has not answered. Its network is gone and nobody has noticed yet, or its program reads nothing. " + state
	case herald.ProbeHeld:
		return "Not yet: OnConnect has not returned for this connection. Messages wait until it has."
	case herald.ProbeClosing:
		return "Closing: the connection is being closed. The close code on the client's side says why."
	case herald.ProbeLost:
		if known {
			return "Dropped: the queue gave it up before it was written. " + state
		}
		return "Gone: the connection ended before the client had answered."
	case herald.ProbeGone:
		return gone
	case herald.ProbeUnheard:
		return e.unheard(c.Session.Node, known)
	case herald.ProbeOlder:
		return "Not known: the node is of an older version of herald, which knows no probes. A message may arrive all the same."
	}
	if e.older {
		return "Not sent: another connection of the user is on a node of an older version, which would take a probe for a loss."
	}
	return "Not sent: see above."
}

const gone = "Gone: the node does not have this connection any more. It has just ended, or the Registry has not noticed yet."

// unheard says why a node may not have said that it has the probe. known reports whether it
// has said that it has the connection. A node that has no connection of the user does not
// get the probe.
func (e *explainer) unheard(node string, known bool) string {
	n, ok := e.nodes[node]
	partial, _ := errors.AsType[*herald.PartialError](e.err)
	told := e.err == nil || partial != nil && !slices.Contains(partial.Missing, node)
	switch {
	case !ok:
		return "Gap: node " + node + " has not said that it has it. The node is dead or has just shut down: it is not known to live any more."
	case n.Err != nil:
		return "Gap: node " + node + " has not said that it has it, and answers no question (" + oneLine(n.Err) + "). The Bus does not reach it, or its process stands still. " +
			"Messages sent meanwhile are lost for its connections, or come late with a Retention."
	case !known && told:
		return gone
	case n.Stats.OpenGaps > 0:
		return fmt.Sprintf("Gap: node %s has not said that it has it, and reports a gap of its Bus for %v. %s", node, n.Stats.OpenGapFor.Round(time.Second), strings.Join(n.Health, "; "))
	}
	return "Not heard: node " + node + " answers questions, and has not said that the message came. It may be too busy: try again."
}

// describe describes a connection's queue, and when the client was last heard.
func describe(s herald.ConnStats) string {
	text := fmt.Sprintf("%s of %d KB wait", count(s.Queued, "message"), (s.QueuedBytes+999)/1000)
	if s.WritingFor > 0 {
		text += fmt.Sprintf(", and the client has taken nothing for %v", s.WritingFor.Round(100*time.Millisecond))
	}
	text += "."
	if !s.LastRead.IsZero() {
		text += fmt.Sprintf(" It was last heard %v ago.", time.Since(s.LastRead).Round(time.Second))
	}
	return text
}

func quoted(platforms []string) string {
	list := make([]string, len(platforms))
	for i, p := range platforms {
		list[i] = fmt.Sprintf("%q", p)
	}
	return strings.Join(list, ", ")
}
