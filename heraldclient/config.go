package heraldclient

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/heraldgo/herald/internal/history/protocol"
)

// A Config says where a Client connects. Fields that are zero have a default.
type Config struct {
	// URL is where the Hub is mounted: ws, wss, http or https. Its query may have
	// anything but what PROTOCOL.md adds to it.
	URL string

	// Endpoint is called before each try to connect, instead of URL, and returns the
	// URL with a fresh token, or headers with one. An error counts as a failed try.
	// The context ends after Timeout, or when the Client is closed. Endpoint must
	// return then.
	Endpoint func(ctx context.Context) (url string, header http.Header, err error)

	// HTTPClient makes the handshakes. Default: http.DefaultClient. Its Transport
	// must be able to upgrade, as an http.Transport is.
	HTTPClient *http.Client

	// Resume is where an earlier Client was: what its Position, or that of a Message,
	// returned.
	Resume string

	// ReadLimit is the most bytes of one message, header line and all. A longer
	// one is not delivered, and a Gap tells of it. If the Hub keeps it, the Client
	// acknowledges neither it nor what comes after it for a minute. So Hub.Deliver has
	// no receipt for what was not delivered. Default 1 MiB.
	ReadLimit int64

	// Timeout is how long a handshake, a write, or the answer to a ping may take. The
	// Client asks the server for a sign of life as often, so it notices within twice
	// the Timeout that the server has gone silent. Default 10 s, at least 10 ms.
	Timeout time.Duration

	// The Client waits for a random time before it tries again. The time is below
	// MinDelay at first; the bound doubles with each try, up to MaxDelay. It is
	// MinDelay again when a message has come, or the connection has lived for longer
	// than MaxDelay and Timeout together. A Hub that is too busy may ask for a longer
	// pause, and gets 5 min at most. Defaults 500 ms and 30 s; at most 24 h.
	MinDelay, MaxDelay time.Duration

	// Logger is told at Warn what a person has to look into, and at Debug why
	// each connection ended. Default: slog.Default().
	Logger *slog.Logger
}

var schemes = []string{"ws", "wss", "http", "https"}

// withDefaults returns the Config with its defaults, and what Resume says.
func (c Config) withDefaults() (Config, protocol.Resume, error) {
	var faults []error
	fault := func(field string, value any, rule string) {
		faults = append(faults, fmt.Errorf("heraldclient: Config.%s: %v: %s", field, value, rule))
	}
	if c.Endpoint == nil {
		fixed := c.URL
		if u, err := url.Parse(fixed); err != nil || u.Host == "" || !slices.Contains(schemes, u.Scheme) {
			fault("URL", fmt.Sprintf("%q", fixed), "must be absolute, with the scheme ws, wss, http or https")
		}
		c.Endpoint = func(context.Context) (string, http.Header, error) { return fixed, nil, nil }
	} else {
		c.URL = ""
	}
	var resume protocol.Resume
	if resume.UnmarshalText([]byte(c.Resume)) != nil {
		fault("Resume", fmt.Sprintf("%q", c.Resume), "must be what Position returned")
	}
	c.HTTPClient = cmp.Or(c.HTTPClient, http.DefaultClient)
	c.ReadLimit = cmp.Or(c.ReadLimit, 1<<20)
	c.Timeout = cmp.Or(c.Timeout, 10*time.Second)
	c.MinDelay = cmp.Or(c.MinDelay, 500*time.Millisecond)
	c.MaxDelay = cmp.Or(c.MaxDelay, max(30*time.Second, c.MinDelay))
	c.Logger = cmp.Or(c.Logger, slog.Default())
	if c.ReadLimit < 1 {
		fault("ReadLimit", c.ReadLimit, "must be above 0")
	}
	if c.Timeout < 10*time.Millisecond {
		fault("Timeout", c.Timeout, "must be at least 10ms")
	}
	if c.MinDelay < 0 || c.MaxDelay < c.MinDelay {
		fault("MaxDelay", c.MaxDelay, fmt.Sprintf("must not be below MinDelay (%v)", c.MinDelay))
	}
	if c.MaxDelay > 24*time.Hour {
		fault("MaxDelay", c.MaxDelay, "must be at most 24h")
	}
	return c, resume, errors.Join(faults...)
}
