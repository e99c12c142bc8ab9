package faultrig

import (
	"fmt"
	"slices"
	"time"

	"github.com/heraldgo/herald/internal/redisconn"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// A Fault is something that breaks.
type Fault struct {
	Name string

	// Survives says that what the nodes keep outlives the fault: with a Retention,
	// a device that can come back misses nothing.
	Survives bool

	// Quiet says that with a Retention no device is told that something may be
	// missing.
	Quiet bool

	// Upgrade says that the first nodes have no Retention, and later ones have one.
	Upgrade bool

	// Heavy says that the fault needs the machine for itself, because the rig's
	// proxies and devices are slow beside it.
	Heavy bool

	buses []string // the Buses that it can happen to; nil means all
	disk  bool     // Redis writes to disk before it answers
	clock bool     // Redis' clock can be stepped
	split bool     // the servers can be cut off from each other

	adjust func(*Options)
	happen func(*trial) // nil if the roaming of devices is the fault
}

// Faults returns the faults that can happen to the Bus of this name.
func Faults(bus string) []Fault {
	onRedis, others := []string{Redis}, []string{"NATS", "RabbitMQ", "MQTT", "Kafka"}
	all := []Fault{
		{Name: "client cuts", Survives: true, Quiet: true},
		{Name: "every client cut for 5 s", Survives: true, Quiet: true, adjust: calm, happen: (*trial).cutAll},
		{Name: "10% of clients stalled", Heavy: true, buses: onRedis, Survives: true, Quiet: true, adjust: few, happen: (*trial).stallSome},
		{Name: "5,000 back at once, 20 missed each", Heavy: true, buses: onRedis, Survives: true, Quiet: true, adjust: many, happen: (*trial).missSome},
		{Name: "200,000 messages at full speed", Heavy: true, buses: onRedis, Survives: true, Quiet: true, adjust: calm, happen: (*trial).flood},
		{Name: "node killed", Survives: true, Quiet: true, happen: (*trial).killNode},
		{Name: "node paused for two leases", Survives: true, Quiet: true, happen: (*trial).pauseNode},
		{Name: "rolling restart of 5 nodes", Survives: true, Quiet: true, adjust: five, happen: (*trial).restartNodes},
		{Name: "upgrade from nodes without a Retention", buses: []string{Redis, Sentinel}, Upgrade: true, happen: (*trial).restartNodes},
		{Name: "all links cut", Survives: true, happen: (*trial).cutLinks},
		{Name: "CLIENT KILL of all links", buses: onRedis, Survives: true, happen: (*trial).killLinks},
		{Name: "black hole around a node", Survives: true, happen: (*trial).blackhole},
		{Name: "Redis restarted, data kept", buses: onRedis, Survives: true, disk: true, happen: (*trial).restartRedis},
		{Name: "Redis restarted, data lost", buses: onRedis, happen: (*trial).restartRedis},
		{Name: "FLUSHALL", buses: onRedis, happen: (*trial).flush},
		{Name: "OOM", buses: onRedis, Survives: true, happen: (*trial).fill},
		{Name: "NOREPLICAS", buses: onRedis, Survives: true, happen: (*trial).demandReplicas},
		{Name: "clock an hour back", buses: onRedis, Survives: true, clock: true, happen: (*trial).turnBack},
		{Name: "clock an hour on", buses: onRedis, clock: true, happen: (*trial).turnOn},
		{Name: "master killed", buses: []string{Sentinel, Cluster}, happen: (*trial).killMaster},
		{Name: "failover, A to B to A", buses: []string{Sentinel}, happen: (*trial).swapMasters},
		{Name: "slot moved", buses: []string{Cluster}, Survives: true, Quiet: true, happen: (*trial).moveSlots},
		{Name: "move of a slot aborted", buses: []string{Cluster}, happen: (*trial).abortMove},
		{Name: "broker restarted", buses: others, happen: (*trial).restartBroker},
		{Name: "split, a node keeps its half", buses: []string{Sentinel, "NATS"}, split: true, happen: (*trial).splitServers},
	}
	return slices.DeleteFunc(all, func(f Fault) bool { return f.buses != nil && !slices.Contains(f.buses, bus) })
}

// calm lets no device roam.
func calm(o *Options) { o.calm = true }

// few makes the devices so few that each of them can be flooded.
func few(o *Options) { o.calm, o.Users = true, min(o.Users, 20) }

// many has some 5,000 devices.
func many(o *Options) { o.calm, o.Users, o.Pace = true, 1667, time.Second }

func five(o *Options) { o.Nodes = 5 }

// cutAll cuts every device off for a while.
func (tr *trial) cutAll() {
	tr.eachDevice(func(d *device) { d.setAway(true) })
	pause(tr.t.Context(), 5*time.Second)
	tr.eachDevice(func(d *device) { d.setAway(false) })
}

func (tr *trial) eachDevice(do func(*device)) {
	for _, d := range tr.devices {
		do(d)
	}
}

// stallSome stops some devices from reading until their queues are full.
func (tr *trial) stallSome() {
	slow := func(on bool) {
		for i := 0; i < len(tr.devices); i += 10 {
			tr.devices[i].setStalled(on)
		}
	}
	slow(true)
	tr.burst(tr.any(), 3000, 4000, "*")
	slow(false)
}

// missSome sends a little to everyone while all devices are away.
func (tr *trial) missSome() {
	tr.eachDevice(func(d *device) { d.setAway(true) })
	for _, d := range tr.devices {
		tr.await("the end of a connection of "+d.String(), func() error { return yet(!d.connected(false)) })
	}
	tr.burst(tr.any(), 20, 0, "*")
	tr.eachDevice(func(d *device) { d.setAway(false) })
}

// flood makes all nodes send to users as fast as they can.
func (tr *trial) flood() {
	peers := tr.living()
	done := make(chan struct{})
	for _, p := range peers {
		go func() {
			defer func() { done <- struct{}{} }()
			tr.burst(p, 200_000/len(peers), 0, "u")
		}()
	}
	for range peers {
		<-done
	}
}

// burst makes a node send count messages at once, and waits until that is done.
func (tr *trial) burst(p *peer, count, padding int, target string) {
	if err := p.ask(fmt.Sprint("burst ", count, " ", padding, " ", target)); err != nil {
		tr.t.Errorf("burst of %s: %v", p.node, err)
	}
}

// killNode kills a node, and starts another one.
func (tr *trial) killNode() {
	p := tr.any()
	tr.leave(p)
	p.kill()
	tr.over()
	tr.start(tr.Retention)
}

// pauseNode stops a node for twice its lease. Its devices stay.
func (tr *trial) pauseNode() {
	p := tr.any()
	p.pause()
	pause(tr.t.Context(), 2*lease)
	p.resume()
}

// restartNodes replaces all nodes by others, in order.
func (tr *trial) restartNodes() {
	for _, p := range tr.living() {
		tr.start(tr.Retention)
		tr.leave(p)
		p.ask("stop")
		p.ask("shutdown")
		p.kill()
	}
}

// cutLinks resets all connections between nodes and servers.
func (tr *trial) cutLinks() {
	for _, p := range tr.living() {
		p.cut()
	}
}

// killLinks has Redis close every connection.
func (tr *trial) killLinks() {
	for _, kind := range []string{"pubsub", "normal"} {
		if err := tr.rdb.ClientKillByFilter(tr.t.Context(), "TYPE", kind, "SKIPME", "yes").Err(); err != nil {
			tr.t.Fatal(err)
		}
	}
}

// blackhole drops everything between a node and its broker until the node notices.
func (tr *trial) blackhole() {
	p := tr.any()
	p.blackhole(true)
	tr.awaitUnhealthy(p)
	p.blackhole(false)
}

// restartRedis kills Redis, and starts it again when all nodes have noticed.
func (tr *trial) restartRedis() {
	tr.server.Kill()
	tr.awaitUnhealthy(tr.living()...)
	tr.server.Restart()
}

// restartBroker does the same with another broker.
func (tr *trial) restartBroker() {
	tr.broker.Kill()
	tr.awaitUnhealthy(tr.living()...)
	tr.broker.Restart()
}

func (tr *trial) flush() {
	if err := tr.rdb.FlushAll(tr.t.Context()).Err(); err != nil {
		tr.t.Fatal(err)
	}
}

// fill makes Redis refuse writes, as if its memory were full.
func (tr *trial) fill() { tr.refuse("maxmemory", "1", "0") }

// demandReplicas makes Redis refuse writes, as if its replicas were gone.
func (tr *trial) demandReplicas() { tr.refuse("min-replicas-to-write", "1", "0") }

// refuse changes a setting until every node has had Sends refused. Redis does not
// refuse PUBLISH, so without a Retention it waits two leases.
func (tr *trial) refuse(setting, to, from string) {
	tr.configure(setting, to)
	if !tr.Retention {
		pause(tr.t.Context(), 2*lease)
	}
	for _, p := range tr.living() {
		failed := p.failed()
		tr.await("a Send that is refused", func() error { return yet(!tr.Retention || p.failed() > failed) })
	}
	tr.configure(setting, from)
}

func (tr *trial) configure(setting, value string) {
	if err := tr.rdb.ConfigSet(tr.t.Context(), setting, value).Err(); err != nil {
		tr.t.Fatal(err)
	}
}

// turnBack turns Redis' clock back by an hour.
func (tr *trial) turnBack() { tr.step(-time.Hour) }

// turnOn turns Redis' clock forward by an hour, so that all that is kept is too
// old.
func (tr *trial) turnOn() { tr.step(time.Hour) }

// killMaster kills a master, and lets it come back as a replica.
func (tr *trial) killMaster() {
	if tr.cluster != nil {
		slot := tr.cluster.Slot("{" + redisconn.Tags[0] + "}")
		old := tr.cluster.MasterOf(slot)
		old.Kill()
		tr.cluster.AwaitFailover(slot, old)
		tr.over()
		old.Restart()
		tr.cluster.AwaitOK()
		return
	}
	old := tr.set.Master()
	old.Kill()
	tr.set.AwaitFailover(old)
	tr.over()
	old.Restart()
	tr.set.AwaitOneMaster()
}

// swapMasters makes the Sentinels appoint other masters until the first one is
// master again: from A to B to A, sometimes with a third server in between.
func (tr *trial) swapMasters() {
	first := tr.set.Master()
	for master := tr.set.Failover(); master != first; master = tr.set.Failover() {
		tr.set.AwaitOneMaster()
		tr.awaitHealthy()
		tr.awaitSent(tr.living(), 5)
	}
	tr.over()
	tr.set.AwaitOneMaster()
}

// moveSlots moves slots that carry messages to another master.
func (tr *trial) moveSlots() {
	for _, tag := range redisconn.Tags[:3] {
		slot := tr.cluster.Slot("{" + tag + "}")
		tr.cluster.Migrate(slot, tr.otherMaster(slot))
	}
}

// abortMove begins to move slots, and aborts that when their keys have moved.
func (tr *trial) abortMove() {
	for _, tag := range redisconn.Tags[:3] {
		slot := tr.cluster.Slot("{" + tag + "}")
		tr.cluster.AbortMigration(slot, tr.otherMaster(slot), 100)
	}
}

// otherMaster returns a master that does not have the slot.
func (tr *trial) otherMaster(slot int) *redistest.Node {
	old := tr.cluster.MasterOf(slot)
	for _, n := range tr.cluster.Nodes {
		if n != old && tr.cluster.IsMaster(n) {
			return n
		}
	}
	tr.t.Fatal("the Cluster has one master")
	return nil
}

// splitServers cuts the servers off from each other until the node that is left
// alone notices, or the majority has another master.
func (tr *trial) splitServers() {
	if tr.broker != nil {
		tr.broker.Split(true)
		tr.awaitUnhealthy(tr.living()[1])
		tr.broker.Split(false)
		return
	}
	tr.split.Split(true)
	tr.split.AwaitFailover()
	tr.awaitSent(tr.living()[1:], 20)
	tr.split.Split(false)
	tr.over()
	tr.split.AwaitRejoined()
}
