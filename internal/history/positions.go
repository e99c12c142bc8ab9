package history

import (
	"bytes"
	"errors"
	"strconv"
)

// MaxPartitions is how many partitions there are at most.
const MaxPartitions = 16

// Positions are where a device is: a Point for each partition. The zero Point
// stands for none.
type Positions [MaxPartitions]Point

// maxPositions is how long the text of Positions can be: a partition, an epoch
// and an offset have at most 2, 16 and 20 digits.
const maxPositions = MaxPartitions * (2 + 16 + 20 + 3)

var errPositions = errors.New("malformed positions")

// AppendText appends the positions as text that needs no escapes in a URL:
// partition, epoch in hexadecimal and offset with dots between them, and commas
// between the partitions.
func (p *Positions) AppendText(b []byte) ([]byte, error) {
	start := len(b)
	for i, at := range p {
		if at.Epoch == 0 {
			continue
		}
		if len(b) > start {
			b = append(b, ',')
		}
		b = AppendPosition(b, i, at)
	}
	return b, nil
}

// AppendPosition appends the position in one partition.
func AppendPosition(b []byte, partition int, at Point) []byte {
	b = strconv.AppendInt(b, int64(partition), 10)
	b = append(b, '.')
	b = strconv.AppendUint(b, uint64(at.Epoch), 16)
	b = append(b, '.')
	return strconv.AppendUint(b, uint64(at.Offset), 10)
}

// UnmarshalText reads what AppendText wrote. The text comes from a client: it is
// refused unless AppendText could have written it. It allocates nothing.
func (p *Positions) UnmarshalText(text []byte) error {
	*p = Positions{}
	if len(text) == 0 {
		return nil
	}
	if len(text) > maxPositions {
		return errPositions
	}
	last := -1
	for position := range bytes.SplitSeq(text, []byte(",")) {
		i, at, err := ParsePosition(position)
		if err != nil {
			return err
		}
		if i <= last {
			return errPositions
		}
		p[i], last = at, i
	}
	return nil
}

// maxPosition is how long the text of one position can be.
const maxPosition = maxPositions / MaxPartitions

// ParsePosition reads what AppendPosition wrote, and refuses everything else.
func ParsePosition(text []byte) (partition int, at Point, err error) {
	if len(text) > maxPosition {
		return 0, Point{}, errPositions
	}
	name, rest, _ := bytes.Cut(text, []byte("."))
	epoch, offset, ok := bytes.Cut(rest, []byte("."))
	i, err1 := strconv.ParseUint(string(name), 10, 8)
	e, err2 := strconv.ParseUint(string(epoch), 16, 64)
	o, err3 := strconv.ParseUint(string(offset), 10, 64)
	at = Point{Epoch(e), Offset(o)}
	if !ok || err1 != nil || err2 != nil || err3 != nil || i >= MaxPartitions || e == 0 {
		return 0, Point{}, errPositions
	}
	// One text for each position: no leading zeros, no capitals.
	var again [maxPosition]byte
	if !bytes.Equal(AppendPosition(again[:0], int(i), at), text) {
		return 0, Point{}, errPositions
	}
	return int(i), at, nil
}
