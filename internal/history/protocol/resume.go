package protocol

import (
	"errors"
	"net/url"
	"strings"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/device"
)

// A Resume is what a client says when it connects: where it was, and the ids of
// its last connections, the newest first.
type Resume struct {
	From  history.Positions
	Conns []string
}

const (
	askKey  = "herald"
	fromKey = "herald.from"
	connKey = "herald.conn"
)

var (
	errQuery = errors.New("malformed query: herald, herald.from and herald.conn are as PROTOCOL.md says")
	errSaved = errors.New("malformed text: it is not what Position returned")
)

// ParseQuery reads the query of a handshake. A client that asks for nothing is a
// plain one, and so is one that asks for another version.
func ParseQuery(query url.Values) (r Resume, asks bool, err error) {
	ask, from, conn := query[askKey], query[fromKey], query[connKey]
	if len(ask) != 1 || ask[0] != "1" {
		return r, false, nil
	}
	if len(from) > 1 || len(conn) > 1 {
		return Resume{}, false, errQuery
	}
	if len(from) == 1 && r.From.UnmarshalText([]byte(from[0])) != nil {
		return Resume{}, false, errQuery
	}
	if len(conn) == 1 && conn[0] != "" {
		if len(conn[0]) > device.MaxConns*(maxID+1) {
			return Resume{}, false, errQuery
		}
		r.Conns = strings.Split(strings.Clone(conn[0]), ",") // the query holds the whole request's line
		if !validConns(r.Conns) {
			return Resume{}, false, errQuery
		}
	}
	return r, true, nil
}

func validConns(conns []string) bool {
	for _, id := range conns {
		if !validID(id) {
			return false
		}
	}
	return len(conns) <= device.MaxConns
}

// AddTo returns the query of a URL with the Resume added. The rest stays as it is.
func (r Resume) AddTo(query string) string {
	if query != "" {
		query += "&"
	}
	query += askKey + "=1"
	if from, _ := r.From.AppendText(nil); len(from) > 0 {
		query += "&" + fromKey + "=" + string(from)
	}
	if len(r.Conns) > 0 {
		query += "&" + connKey + "=" + strings.Join(r.Conns, ",")
	}
	return query
}

// MarshalText returns the Resume as text to be saved: its positions, and behind a
// space its connections. Without connections it is the text of the positions.
func (r Resume) MarshalText() ([]byte, error) {
	b, err := r.From.AppendText(nil)
	if err == nil && len(r.Conns) > 0 {
		b = append(append(b, ' '), strings.Join(r.Conns, ",")...)
	}
	return b, err
}

// UnmarshalText reads what MarshalText wrote.
func (r *Resume) UnmarshalText(text []byte) error {
	*r = Resume{}
	from, conns, some := strings.Cut(string(text), " ")
	if some {
		r.Conns = strings.Split(conns, ",")
	}
	if r.From.UnmarshalText([]byte(from)) != nil || !validConns(r.Conns) {
		*r = Resume{}
		return errSaved
	}
	return nil
}
