package mqttbus

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"time"

	"github.com/heraldgo/herald"
)

// off is an interval that never comes.
const off = time.Duration(math.MaxInt64 / 2)

// withDefaults returns a copy with every field set; o may be nil.
func (o *Options) withDefaults() (Options, error) {
	var c Options
	if o != nil {
		c = *o
	}
	c.Prefix = cmp.Or(c.Prefix, "herald")
	c.ProbeInterval = cmp.Or(c.ProbeInterval, time.Second)
	c.ProbeTimeout = cmp.Or(c.ProbeTimeout, 5*time.Second)
	if c.ProbeInterval < 0 {
		c.ProbeInterval = off
	}
	var faults []error
	if !validPrefix(c.Prefix) {
		faults = append(faults, fmt.Errorf("%w: Options.Prefix: %q: must be 1 to %d bytes of UTF-8 without '+', '#', '%%' and control characters, and not begin with '$'",
			herald.ErrInvalid, c.Prefix, maxPrefix))
	}
	if c.QoS > 1 {
		faults = append(faults, fmt.Errorf("%w: Options.QoS: %d: must be 0 or 1", herald.ErrInvalid, c.QoS))
	}
	if c.ProbeInterval < time.Millisecond {
		faults = append(faults, fmt.Errorf("%w: Options.ProbeInterval: %v: must be at least 1ms, or negative for no proofs", herald.ErrInvalid, c.ProbeInterval))
	}
	if c.ProbeTimeout < time.Millisecond {
		faults = append(faults, fmt.Errorf("%w: Options.ProbeTimeout: %v: must be at least 1ms", herald.ErrInvalid, c.ProbeTimeout))
	}
	return c, errors.Join(faults...)
}

// newDialer reads a broker's URL. No error quotes it: it may hold a password,
// and if a password is not escaped, any part of it may.
func newDialer(broker string, o *Options) (*dialer, error) {
	u, err := url.Parse(broker)
	if err != nil || u.Scheme != "mqtt" && u.Scheme != "mqtts" || u.Hostname() == "" || u.Opaque != "" ||
		u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return nil, fmt.Errorf("%w: url: must be mqtt://[user[:password]@]host[:port], or mqtts://…, with the special characters of user and password as %%XX", herald.ErrInvalid)
	}
	port := "1883"
	d := &dialer{timeout: o.ProbeTimeout}
	if u.Scheme == "mqtts" {
		port = "8883"
		d.tls = &tls.Config{}
		if o.TLS != nil {
			d.tls = o.TLS.Clone()
		}
		d.tls.ServerName = cmp.Or(d.tls.ServerName, u.Hostname())
	} else if o.TLS != nil {
		return nil, fmt.Errorf("%w: Options.TLS: set, but the scheme of url is mqtt: must be mqtts", herald.ErrInvalid)
	}
	d.addr = net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port))
	if user := u.User.Username(); user != "" {
		d.user = &user
	}
	if password, ok := u.User.Password(); ok {
		d.password = &password
	}
	return d, nil
}
