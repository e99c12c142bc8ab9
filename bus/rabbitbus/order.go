package rabbitbus

import (
	"errors"
	"time"

	"github.com/rabbitmq/amqp091-go"
)

// orderSuffix ends the name of the exchange that messages are published to,
// and that of the one queue which is bound to it and puts them in order.
const orderSuffix = ".order"

// declareOrder declares the exchange that messages are published to.
func (l *link) declareOrder(exchange string) error {
	return l.channel.ExchangeDeclare(exchange+orderSuffix, amqp091.ExchangeFanout, true, false, false, false, nil)
}

// claim makes sure that there is a queue that puts messages in order. The queue is
// exclusive: there is never a second one, it goes with its connection, and nothing is
// left behind.
func (l *link) claim(exchange string) error {
	defer l.guard("declare the queue that keeps the order")()
	channel, err := l.conn.Channel()
	if err != nil {
		return err
	}
	name := exchange + orderSuffix
	_, err = channel.QueueDeclare(name, false, false, true, false, amqp091.Table{
		amqp091.QueueTypeArg:     amqp091.QueueTypeClassic,
		amqp091.QueueMaxLenArg:   0,
		amqp091.QueueOverflowArg: amqp091.QueueOverflowDropHead,
		"x-dead-letter-exchange": exchange,
	})
	if refused, ok := errors.AsType[*amqp091.Error](err); ok && refused.Code == amqp091.ResourceLocked {
		return nil // another connection was first; ours has closed the channel
	}
	if err != nil {
		return err
	}
	if err := channel.QueueBind(name, "", name, false, nil); err != nil {
		return err
	}
	l.owner.Store(true)
	return channel.Close()
}

// drain is how long the queue may take to pass on what is on its way.
const drain = 50 * time.Millisecond

// handOver ends the work of our queue so that nothing in it is lost: what is
// published from now on is returned, and its publisher waits until the name
// of the queue is free.
func (l *link) handOver(exchange string) {
	if !l.owner.Load() {
		return
	}
	channel, err := l.conn.Channel()
	if err != nil {
		return
	}
	if channel.QueueUnbind(exchange+orderSuffix, "", exchange+orderSuffix, nil) != nil {
		return
	}
	select {
	case <-time.After(drain):
	case <-l.dead:
	}
}
