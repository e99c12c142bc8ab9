// Package errs has the sentinel errors of package herald that its internal packages
// return, and functions with which several Buses make errors of them. The sentinels
// are documented there.
package errs

import "errors"

//lint:file-ignore ST1012 errs.ErrX would say it twice.

// Each of them is herald's sentinel of the same name with Err before it.
var (
	BusDown      = errors.New("herald: bus is down")
	Unknown      = errors.New("herald: outcome is unknown")
	RegistryDown = errors.New("herald: registry is down")
	LeaseLost    = errors.New("herald: lease is lost")
	Closed       = errors.New("herald: closed")
	Receiving    = errors.New("herald: Receive of the Bus is under way already: each Hub must have a Bus of its own")
	Invalid      = errors.New("herald: invalid argument")
)
