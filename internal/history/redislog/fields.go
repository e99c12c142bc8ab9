package redislog

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/store"
)

func parseEpoch(text string) history.Epoch {
	e, err := strconv.ParseUint(text, 16, 64)
	if err != nil {
		return 0
	}
	return history.Epoch(e)
}

// agreementText returns an Agreement as scripts write it; parseAgreement reads that.
func agreementText(a store.Agreement) string {
	return fmt.Sprintf("%d %d %d", a.Version, a.Age, a.Bytes)
}

func parseAgreement(text string) (a store.Agreement, ok bool) {
	version, rest, _ := strings.Cut(text, " ")
	age, room, _ := strings.Cut(rest, " ")
	v, err1 := strconv.ParseUint(version, 10, 53)
	ms, err2 := strconv.ParseUint(age, 10, 53)
	n, err3 := strconv.ParseUint(room, 10, 53)
	ok = err1 == nil && err2 == nil && err3 == nil && v > 0
	return store.Agreement{Version: v, Age: int64(ms), Bytes: int(n)}, ok
}

// parseLinks reads the links of an entry. Each is '<prev> <length>:<topic>'.
func parseLinks(text string) (links []history.Link, ok bool) {
	for len(text) > 0 {
		space := strings.IndexByte(text, ' ')
		colon := strings.IndexByte(text, ':')
		if space < 0 || colon < space {
			return nil, false
		}
		prev, err1 := strconv.ParseUint(text[:space], 10, 64)
		n, err2 := strconv.ParseUint(text[space+1:colon], 10, 31)
		text = text[colon+1:]
		if err1 != nil || err2 != nil || int(n) > len(text) {
			return nil, false
		}
		links = append(links, history.Link{Topic: text[:n], Prev: history.Offset(prev)})
		text = text[n:]
	}
	return links, true
}
