// Package heraldclient is a client of a herald Hub for services, tests and
// command-line tools. It connects, comes back by itself, goes on where it was if
// the Hub keeps messages, and tells when something may be missing. PROTOCOL.md
// specifies what it says to a Hub.
//
// With a Hub that keeps nothing it is a plain WebSocket client that reconnects.
// Then every connection but the first begins with a [Gap].
//
//	client, err := heraldclient.New(heraldclient.Config{URL: "wss://example.com/ws"})
//	if err != nil {
//		return err
//	}
//	defer client.Close()
//	for {
//		event, err := client.Receive(ctx)
//		if err != nil {
//			return err
//		}
//		switch e := event.(type) {
//		case heraldclient.Message:
//			handle(e.Data)
//		case heraldclient.Gap:
//			fetchEverything()
//		}
//	}
package heraldclient
