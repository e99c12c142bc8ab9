package herald

import (
	"context"
	"iter"
	"net/http"
)

// A Hub is the local end. (Signatures only for now.)
type Hub struct{}

// New makes a Hub and connects it.
func New(config Config) (*Hub, error) { panic("not built") }

// ServeHTTP upgrades the request and returns when the Conn lives.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {}

// NodeID returns the id of this Hub's node.
func (h *Hub) NodeID() string { return "" }

// Send sends m to every connection of the target, on every node.
func (h *Hub) Send(ctx context.Context, t Target, m Message) error { return nil }

// Join makes the target's connections members of groups; acknowledged by every node.
func (h *Hub) Join(ctx context.Context, t Target, groups ...string) error { return nil }

// Leave is the opposite of Join.
func (h *Hub) Leave(ctx context.Context, t Target, groups ...string) error { return nil }

// Disconnect closes the target's connections; acknowledged by every node.
func (h *Hub) Disconnect(ctx context.Context, t Target, code StatusCode, reason string) error {
	return nil
}

// Online returns which of the users have a live connection anywhere.
func (h *Hub) Online(ctx context.Context, users ...string) (map[string]bool, error) { return nil, nil }

// Sessions lists the sessions of the target (User, Group or Connection targets), oldest first, each once.
func (h *Hub) Sessions(ctx context.Context, t Target) ([]Session, error) { return nil, nil }

// Count returns the number of connections of the cluster, as each node said when it last renewed its lease.
func (h *Hub) Count(ctx context.Context) (int, error) { return 0, nil }

// Nodes lists the live nodes.
func (h *Hub) Nodes(ctx context.Context) ([]Node, error) { return nil, nil }

// Conns iterates over this node's connections.
func (h *Hub) Conns() iter.Seq[*Conn] { return nil }

// Stats returns a snapshot of the counters.
func (h *Hub) Stats() Stats { return Stats{} }

// Health returns nil when the node is fit to serve.
func (h *Hub) Health() error { return nil }

// Shutdown drains the Hub.
func (h *Hub) Shutdown(ctx context.Context) error { return nil }

// MaxPerUser is an Admit that keeps the newest n connections of a user.
func MaxPerUser(n int) func(context.Context, Session, []Session) ([]Session, error) { return nil }

// OnePerPlatform is an Admit that keeps the newest connection of each platform of a user.
func OnePerPlatform() func(context.Context, Session, []Session) ([]Session, error) { return nil }

// OnePerDevice is an Admit that keeps the newest connection of each device of a user.
func OnePerDevice() func(context.Context, Session, []Session) ([]Session, error) { return nil }
