package heraldapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/heraldgo/herald"
)

// An answer is what a request is answered with, now or later.
type answer struct {
	Status int             `json:"status"`
	Body   json.RawMessage `json:"body"`

	undone bool // nothing was done: the same request may be tried again
}

// A problem is the body of an answer that says what failed.
type problem struct {
	Sent  *int        `json:"sent,omitempty"` // messages of a send before the one that failed
	Error errorObject `json:"error"`
}

type errorObject struct {
	Code    string   `json:"code"`
	Field   string   `json:"field,omitempty"`
	Message string   `json:"message"`
	Missing []string `json:"missing,omitempty"` // ids of nodes
}

// ok is the answer 200.
func ok(body any) *answer { return encode(http.StatusOK, body) }

// failure is the answer to a request that was not tried.
func failure(status int, code, message string) *answer {
	a := encode(status, problem{Error: errorObject{Code: code, Message: message}})
	a.undone = true
	return a
}

// invalid is the answer to a request that breaks a rule.
func invalid(field, rule string) *answer {
	a := encode(http.StatusBadRequest, problem{Error: errorObject{Code: "invalid", Field: field, Message: rule}})
	a.undone = true
	return a
}

// failed is the answer if the Hub returned an error. Sent is nil, or the number of
// messages of the request that were sent before. Only status 504 leaves room for
// anything to have been done.
func failed(err error, sent *int) *answer {
	status, object := explain(err)
	if sent != nil && *sent > 0 && status != http.StatusGatewayTimeout {
		status, object.Code = http.StatusGatewayTimeout, "in_part"
	}
	a := encode(status, problem{sent, object})
	a.undone = status != http.StatusGatewayTimeout
	return a
}

// explain turns an error of the Hub into a status and what the caller is told. Status
// 504 says that the request may have been carried out, wholly or in part.
func explain(err error) (int, errorObject) {
	o := errorObject{Message: strings.TrimPrefix(err.Error(), "herald: ")}
	var partial *herald.PartialError
	for _, c := range []struct {
		is     bool
		status int
		code   string
	}{
		{errors.As(err, &partial), http.StatusGatewayTimeout, "partial"},
		{errors.Is(err, herald.ErrUnknown), http.StatusGatewayTimeout, "unknown"},
		{errors.Is(err, herald.ErrInvalid), http.StatusBadRequest, "invalid"},
		{errors.Is(err, herald.ErrBusDown), http.StatusServiceUnavailable, "bus_down"},
		{errors.Is(err, herald.ErrRegistryDown), http.StatusServiceUnavailable, "registry_down"},
		{errors.Is(err, herald.ErrClosed), http.StatusServiceUnavailable, "closed"},
		{errors.Is(err, herald.ErrLimit), http.StatusServiceUnavailable, "limit"},
		{errors.Is(err, context.Canceled), http.StatusGatewayTimeout, "unknown"},
		{errors.Is(err, context.DeadlineExceeded), http.StatusGatewayTimeout, "unknown"},
	} {
		if c.is {
			o.Code = c.code
			if partial != nil {
				o.Missing = partial.Missing
			}
			return c.status, o
		}
	}
	o.Code = "unknown"
	return http.StatusGatewayTimeout, o
}

func encode(status int, body any) *answer {
	b, err := json.Marshal(body)
	if err != nil { // none of our types can fail
		panic(err)
	}
	return &answer{Status: status, Body: b}
}

func (a *answer) write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	switch a.Status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", "Bearer")
	case http.StatusServiceUnavailable, http.StatusConflict:
		h.Set("Retry-After", "1")
	}
	w.WriteHeader(a.Status)
	w.Write(append(a.Body, '\n'))
}
