package frame

// An Assembler is a Parser that puts the messages together, each in memory of its
// own. The memory grows as the bytes come, whatever length is announced. The zero
// Assembler is ready to use. Only one goroutine at a time may use it.
type Assembler struct {
	Parser
	b []byte // room for a header, and the part of the message's payload that has come
}

// smallRead is how many bytes are worth a separate read.
const smallRead = 2 << 10

// Held returns how many bytes of memory the incoming message has.
func (a *Assembler) Held() int { return cap(a.b) }

// Next is Parser.Next, but a message is one Piece. Its Payload is a server's frame
// that carries the message, in memory of its own.
func (a *Assembler) Next(b []byte) (whole Piece, rest []byte, err error) {
	whole, rest, err = a.Parser.Next(b)
	if kind := whole.Kind &^ Compressed; kind != Text && kind != Binary {
		return whole, rest, err
	}
	if !whole.Last {
		a.add(whole.Payload)
		return Piece{Short: whole.Short}, rest, nil
	}
	whole.Payload = a.finish(whole.Kind, whole.Payload)
	return whole, rest, nil
}

// Room returns memory for the next read if at least the next n bytes belong to a
// message. What is read into it and then given to Next is not copied. Otherwise Room
// returns nil.
func (a *Assembler) Room(n int) []byte {
	left := a.Left()
	if left < int64(n) {
		return nil
	}
	a.grow(int(min(left, smallRead)))
	room := a.b[len(a.b):cap(a.b)]
	return room[:min(left, int64(len(room)))]
}

func (a *Assembler) add(payload []byte) {
	if len(payload) == 0 {
		return
	}
	a.grow(len(payload))
	n := len(a.b)
	a.b = a.b[:n+len(payload)]
	copy(a.b[n:], payload) // does nothing if it was read into Room
}

// grow makes room for n bytes, and for as many again as a.b then has, if the message
// may become that long.
func (a *Assembler) grow(n int) {
	if a.b == nil {
		a.b = make([]byte, MaxHeader, a.roomFor(MaxHeader+n))
	}
	if len(a.b)+n > cap(a.b) {
		b := make([]byte, len(a.b), a.roomFor(len(a.b)+n))
		copy(b, a.b)
		a.b = b
	}
}

func (a *Assembler) roomFor(n int) int {
	return max(n, MaxHeader+int(min(int64(2*n-MaxHeader), a.most())))
}

// finish returns the frame of the message that ends with the payload.
func (a *Assembler) finish(kind byte, payload []byte) []byte {
	if a.b == nil {
		b := make([]byte, 0, HeaderSize(len(payload))+len(payload))
		return append(AppendHeader(b, kind, len(payload)), payload...)
	}
	a.add(payload)
	b := a.b
	a.b = nil
	return Finish(b, kind)
}
