// Command fakekafka is a Kafka for trying the demo where there is none: franz-go's
// kfake, which keeps everything in memory.
package main

import (
	"fmt"
	"os"
	"os/signal"

	"github.com/twmb/franz-go/pkg/kfake"
)

func main() {
	cluster, err := kfake.NewCluster(kfake.Ports(9092))
	if err != nil {
		fmt.Fprintln(os.Stderr, "fakekafka:", err)
		os.Exit(1)
	}
	defer cluster.Close()
	fmt.Println("a Kafka of one broker on", cluster.ListenAddrs()[0])
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, os.Interrupt)
	<-ended
}
