package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// What is asked of the cluster besides producing and fetching.

// A layout is what the cluster says of the topic.
type layout struct {
	id         [16]byte // new with each creation; zero before Kafka 2.8
	partitions int
}

// Timestamps of a ListOffsets request that stand for the two ends of a log.
// See ListOffsetsRequest.json in Kafka's sources.
const (
	atLatest   = -1
	atEarliest = -2
)

// describe returns the topic's layout.
func describe(ctx context.Context, client *kgo.Client, topic string) (layout, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation = false
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = &topic
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, client)
	if err != nil {
		return layout{}, fmt.Errorf("ask for topic %s: %w", topic, err)
	}
	if len(resp.Topics) != 1 {
		return layout{}, fmt.Errorf("ask for topic %s: Kafka told of %d topics", topic, len(resp.Topics))
	}
	if err := kerr.ErrorForCode(resp.Topics[0].ErrorCode); err != nil {
		return layout{}, fmt.Errorf("topic %s: %w", topic, err)
	}
	l := layout{id: resp.Topics[0].TopicID, partitions: len(resp.Topics[0].Partitions)}
	if l.partitions == 0 {
		return layout{}, fmt.Errorf("topic %s: Kafka told of no partitions", topic)
	}
	return l, nil
}

// listOffsets asks the leader of each of n partitions for one end of its log.
// The offsets of partitions whose leaders did not tell are -1, and failed
// says why.
func listOffsets(ctx context.Context, client *kgo.Client, topic string, n int, at int64) (offsets []int64, failed map[int]error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic = topic
	offsets = make([]int64, n)
	for i := range offsets {
		offsets[i] = -1
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition = int32(i)
		p.Timestamp = at
		t.Partitions = append(t.Partitions, p)
	}
	req.Topics = append(req.Topics, t)

	failed = make(map[int]error)
	why := errors.New("its leader did not answer")
	for _, shard := range client.RequestSharded(ctx, req) {
		resp, ok := shard.Resp.(*kmsg.ListOffsetsResponse)
		if shard.Err != nil || !ok {
			if shard.Err != nil {
				why = shard.Err
			}
			continue
		}
		for _, rt := range resp.Topics {
			for _, rp := range rt.Partitions {
				i := int(rp.Partition)
				if rt.Topic != topic || i < 0 || i >= n {
					continue
				}
				if err := kerr.ErrorForCode(rp.ErrorCode); err != nil {
					failed[i] = err
				} else {
					offsets[i] = rp.Offset
				}
			}
		}
	}
	for i, offset := range offsets {
		if offset < 0 && failed[i] == nil {
			failed[i] = why
		}
	}
	return offsets, failed
}

// partitionsError sums up what failed, which must not be empty.
func partitionsError(topic string, failed map[int]error) error {
	first := -1
	for i := range failed {
		if first < 0 || i < first {
			first = i
		}
	}
	return fmt.Errorf("%d partitions of topic %s, the first %d: %w", len(failed), topic, first, failed[first])
}

// create creates the topic. That there is one already is no error.
func create(ctx context.Context, client *kgo.Client, topic string, c *Create) error {
	req := kmsg.NewPtrCreateTopicsRequest()
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic = topic
	t.NumPartitions = c.Partitions
	t.ReplicationFactor = c.ReplicationFactor
	for name, value := range c.Configs {
		config := kmsg.NewCreateTopicsRequestTopicConfig()
		config.Name = name
		config.Value = &value
		t.Configs = append(t.Configs, config)
	}
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, client)
	if err != nil {
		return fmt.Errorf("create topic %s: %w", topic, err)
	}
	for _, rt := range resp.Topics {
		err := kerr.ErrorForCode(rt.ErrorCode)
		if err == nil || errors.Is(err, kerr.TopicAlreadyExists) {
			continue
		}
		if rt.ErrorMessage != nil {
			return fmt.Errorf("create topic %s: %w: %s", topic, err, *rt.ErrorMessage)
		}
		return fmt.Errorf("create topic %s: %w", topic, err)
	}
	return nil
}

// defaultMaxBatch is what Kafka takes if max.message.bytes is not set
// (https://kafka.apache.org/documentation/#topicconfigs_max.message.bytes).
const defaultMaxBatch = 1048588

// maxBatch returns how large a batch of records the topic takes. If Kafka
// does not let us ask it is Kafka's default.
func maxBatch(ctx context.Context, client *kgo.Client, topic string) int32 {
	req := kmsg.NewPtrDescribeConfigsRequest()
	r := kmsg.NewDescribeConfigsRequestResource()
	r.ResourceType = kmsg.ConfigResourceTypeTopic
	r.ResourceName = topic
	r.ConfigNames = []string{"max.message.bytes"}
	req.Resources = append(req.Resources, r)
	resp, err := req.RequestWith(ctx, client)
	if err != nil {
		return defaultMaxBatch
	}
	for _, resource := range resp.Resources {
		for _, config := range resource.Configs {
			if config.Name != "max.message.bytes" || config.Value == nil {
				continue
			}
			if n, err := strconv.ParseInt(*config.Value, 10, 32); err == nil && n >= 512 {
				return int32(min(n, maxBatchLimit))
			}
		}
	}
	return defaultMaxBatch
}

// maxBatchLimit is the largest batch we send; a request may have 100 MiB in all.
const maxBatchLimit = 64 << 20

// find returns the topic's layout, and creates the topic if it is missing
// and o asks for that. It waits until every partition has a leader, whose
// log's end it returns, or for ctx.
func find(ctx context.Context, client *kgo.Client, o *Options) (l layout, ends []int64, err error) {
	created := false
	for tries := 1; ; tries++ {
		l, err = describe(ctx, client, o.Topic)
		missing := errors.Is(err, kerr.UnknownTopicOrPartition)
		switch {
		case err == nil:
			var failed map[int]error
			if ends, failed = listOffsets(ctx, client, o.Topic, l.partitions, atLatest); len(failed) == 0 {
				return l, ends, nil
			}
			err = partitionsError(o.Topic, failed)
		case missing && o.Create == nil:
			return l, nil, fmt.Errorf("%w: create it, or set Options.Create", err)
		case missing && !created:
			if err = create(ctx, client, o.Topic, o.Create); err != nil {
				return l, nil, err
			}
			created = true
			continue
		}
		if !kerr.IsRetriable(err) { // the client has tried again if the link was at fault
			return l, nil, err
		}
		select {
		case <-time.After(backoff(tries)):
		case <-ctx.Done():
			return l, nil, err
		}
	}
}
