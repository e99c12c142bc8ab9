package kafkabus_test

import (
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/heraldgo/herald"
)

// What Kafka keeps is not lost: not by the links, nor by brokers that go.
func TestNothingIsLost(t *testing.T) {
	fetch, produce := kmsg.Fetch, kmsg.Produce
	faulty := func(faults ...kfake.Fault) func(r *rig) {
		return func(r *rig) {
			for _, f := range faults {
				f.Topic = "herald"
				h := r.cluster.Fault(f)
				r.await("the fault", func() bool { return h.Hits() > 0 })
			}
		}
	}
	for name, test := range map[string]struct {
		fault func(r *rig)
		quiet bool // it may be no gap
	}{
		"cut": {fault: func(r *rig) { r.cut() }},
		"cut repeatedly": {fault: func(r *rig) {
			for range 5 {
				_, _, before := r.snapshot()
				r.cut()
				r.await("another gap, and its end", func() bool {
					_, _, gaps := r.snapshot()
					return len(gaps) > len(before) && !gaps[len(gaps)-1][1].IsZero()
				})
			}
		}},
		"black hole": {fault: func(r *rig) {
			r.blackhole(true)
			r.awaitGap()
			r.await("bad health", func() bool { return r.to.Health() != nil })
			r.blackhole(false)
		}},
		"one broker in a black hole": {fault: func(r *rig) {
			r.proxies[r.addrs[1]].Blackhole(true)
			r.awaitGap()
			r.proxies[r.addrs[1]].Blackhole(false)
		}},
		"reset":         {fault: func(r *rig) { r.to.Reset() }},
		"reset of both": {fault: func(r *rig) { r.to.Reset(); r.from.Reset() }},
		"leaders move": {fault: func(r *rig) {
			for range 5 {
				r.cluster.ShufflePartitionLeaders()
			}
		}, quiet: true},
		"a broker goes":         {fault: func(r *rig) { r.must(r.cluster.RemoveNode(1)) }, quiet: true},
		"not the leader":        {fault: faulty(kfake.Fault{Keys: []kmsg.Key{produce, fetch}, Err: kerr.NotLeaderForPartition, Count: 20}), quiet: true},
		"append timed out":      {fault: faulty(kfake.Fault{Keys: []kmsg.Key{produce}, Err: kerr.RequestTimedOut, Count: 3}), quiet: true},
		"too few replicas":      {fault: faulty(kfake.Fault{Keys: []kmsg.Key{produce}, Err: kerr.NotEnoughReplicasAfterAppend, Count: 3}), quiet: true},
		"producer is forgotten": {fault: faulty(kfake.Fault{Keys: []kmsg.Key{produce}, Err: kerr.UnknownProducerID, Count: 1}), quiet: true},
		"out of order":          {fault: faulty(kfake.Fault{Keys: []kmsg.Key{produce}, Err: kerr.OutOfOrderSequenceNumber, Count: 1}), quiet: true},
		"epoch is fenced":       {fault: faulty(kfake.Fault{Keys: []kmsg.Key{fetch}, Err: kerr.FencedLeaderEpoch, Count: 3}), quiet: true},
		"ends are not told":     {fault: faulty(kfake.Fault{Keys: []kmsg.Key{kmsg.ListOffsets}, Err: kerr.OffsetNotAvailable, Count: 3}), quiet: true},
		"reading is denied":     {fault: func(r *rig) { r.deny(kerr.TopicAuthorizationFailed) }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			test.fault(r)
			if !test.quiet {
				r.awaitGap()
			}
			if lost := r.check(true); lost > 0 {
				t.Errorf("%d packets were lost that Kafka had", lost)
			}
		})
	}
}

// Nor is it by a restart of all brokers.
func TestRestartLosesNothing(t *testing.T) {
	r := newRig(t, kfake.DataDir(t.TempDir()))
	r.restart()
	r.awaitGap()
	if lost := r.check(true); lost > 0 {
		t.Errorf("%d packets were lost that Kafka had", lost)
	}
}

// A leader that says that the log was cut off, and is wrong, or late, causes
// no second copy.
func TestCutOff(t *testing.T) {
	r := newRig(t)
	r.cluster.ControlKey(int16(kmsg.OffsetForLeaderEpoch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		r.cluster.KeepControl()
		asked := req.(*kmsg.OffsetForLeaderEpochRequest)
		resp := req.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
		for _, t := range asked.Topics {
			rt := kmsg.NewOffsetForLeaderEpochResponseTopic()
			rt.Topic = t.Topic
			for _, p := range t.Partitions {
				rp := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
				rp.Partition, rp.LeaderEpoch, rp.EndOffset = p.Partition, p.LeaderEpoch, 1
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
	r.deny(kerr.FencedLeaderEpoch)
	r.cluster.DropControl()
	if lost := r.check(true); lost > 0 {
		t.Errorf("%d packets were lost that Kafka had", lost)
	}
}

// What Kafka itself no longer has is lost between a Down and a Restored.
func TestLossIsReported(t *testing.T) {
	for name, fault := range map[string]func(r *rig){
		"restart of an empty cluster": func(r *rig) { r.restart() },
		"restart after a while": func(r *rig) {
			r.stop()
			r.awaitGap()
			r.await("ErrBusDown of Publish", func() bool {
				err := r.to.Publish(r.Context(), herald.Packet{Topic: "none"})
				if err == nil {
					r.T.Error("Publish without a cluster returned nil")
				}
				return errors.Is(err, herald.ErrBusDown) && !errors.Is(err, herald.ErrUnknown)
			})
			r.again()
		},
		"topic deleted and created again": func(r *rig) {
			r.must(r.cluster.DeleteTopic("herald"))
			r.awaitGap()
			r.await("bad health", func() bool { return r.to.Health() != nil })
			r.create("herald")
		},
		"topic created again at once": func(r *rig) {
			r.must(r.cluster.DeleteTopic("herald"))
			r.create("herald")
		},
		"retention": func(r *rig) {
			r.blackhole(true)
			r.awaitGap()
			for i := range int32(partitions) {
				r.must(r.cluster.DeleteRecords("herald", i, r.cluster.PartitionInfo("herald", i).HighWatermark-1))
			}
			r.blackhole(false)
		},
		"out of range": func(r *rig) {
			r.deny(kerr.OffsetOutOfRange)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			fault(r)
			r.awaitGap()
			r.check(true)
		})
	}
}

// Partitions that are added are read from their beginning.
func TestPartitionsAdded(t *testing.T) {
	r := newRig(t)
	req := kmsg.NewPtrCreatePartitionsRequest()
	rt := kmsg.NewCreatePartitionsRequestTopic()
	rt.Topic = "herald"
	rt.Count = 2 * partitions
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(t.Context(), r.client())
	if err != nil || kerr.ErrorForCode(resp.Topics[0].ErrorCode) != nil {
		t.Fatal(resp, err)
	}
	r.await("packets in a new partition", func() bool {
		return r.cluster.PartitionInfo("herald", 2*partitions-1).HighWatermark > 0
	})
	if lost := r.check(false); lost > 0 {
		t.Errorf("%d packets were lost", lost)
	}
}

// deny answers every fetch with an error until there is a gap.
func (r *rig) deny(why *kerr.Error) {
	r.T.Helper()
	h := r.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: "herald", Err: why, Count: -1})
	r.awaitGap()
	h.Remove()
}

func (r *rig) must(err error) {
	r.T.Helper()
	if err != nil {
		r.T.Fatal(err)
	}
}
