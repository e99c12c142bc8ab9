package historymodel

// A pick is a random number, from which small choices are taken one by one.
type pick uint32

func (p *pick) of(n int) int {
	v := int(*p) % n
	*p /= pick(n)
	return v
}

// take takes one action.
func (w *world) take(a action) {
	p := pick(a.arg)
	switch a.verb {
	case send, unknown:
		w.send(w.hubs[p.of(nodes)], flavour{
			unknown: a.verb == unknown, topics: p.of(len(topics)), more: p.of(3), many: 1 + p.of(3),
			unkept: p.of(4) == 0, except: p.of(4) == 0, phoneNum: p.of(devices), size: p.of(2) * 4,
		})
	case drop, come, visit, lose, forge, join, confirm, leave, socket:
		w.takePhone(a.verb, w.phones[p.of(devices)], &p)
	case kill:
		w.kill(p.of(nodes))
	case link, work, script, answer, mark, cutLink, connect, deaf, redirect, abandon:
		w.takeSide(a.verb, p.of(nodes*partitions), &p)
	case tick:
		w.now += int64(p.of(age))
	case stepBack:
		w.now = max(0, w.now-10*age)
		w.hit(clockBack)
	default:
		w.clusters[p.of(partitions)].take(a.verb, &p)
	}
}

func (w *world) takePhone(v verb, ph *phone, p *pick) {
	switch v {
	case drop:
		ph.cut()
	case come:
		ph.connect(w.hubs[p.of(nodes+1)%nodes]) // often the first node
	case visit:
		ph.cut()
		ph.connect(w.hubs[p.of(nodes)])
		w.settlePhone(ph)
	case lose:
		ph.forget()
	case forge:
		ph.forge(p.of(2), p.of(64))
	case join:
		ph.join(topics[p.of(len(topics))])
	case confirm:
		ph.confirm()
	case leave:
		ph.leave(topics[p.of(len(topics))])
	case socket:
		for n := 1 + p.of(3); n > 0 && ph.session != nil && len(ph.session.frames) > 0; n-- {
			ph.receive()
		}
	}
}

// takeSide takes an action of a node in a partition: which names it or, if that has
// nothing to do, the next one that has.
func (w *world) takeSide(v verb, which int, p *pick) {
	n := 1 + p.of(3)
	for i := range nodes * partitions {
		at := (which + i) % (nodes * partitions)
		if w.hubs[at/partitions].sides[at%partitions].take(v, n) {
			return
		}
	}
}

func (s *side) take(v verb, n int) (done bool) {
	switch v {
	case link:
		for ; n > 0 && len(s.wire) > 0; n-- {
			s.arrive()
			done = true
		}
	case work:
		for ; n > 0 && len(s.inbox) > 0; n-- {
			s.work()
			done = true
		}
	case script:
		if done = len(s.asks) > 0 && s.answers(); done {
			s.run()
		}
	case answer:
		if done = len(s.replies) > 0; done {
			s.hear()
		}
	case connect:
		if done = !s.up; done {
			s.connect()
		}
	case mark:
		s.fence()
		return true
	case cutLink:
		s.cut(n - 1)
		return true
	case deaf:
		s.deaf = s.up
		return true
	case redirect:
		s.redirect()
		return true
	case abandon:
		s.giveUp()
		return true
	}
	return done
}

func (c *cluster) take(v verb, p *pick) {
	switch v {
	case copyLog:
		c.replicate()
	case save:
		c.disk = c.serving().log.Clone()
	case restart:
		c.restart(p.of(3))
	case fail:
		c.failover(false)
	case linger:
		c.failover(true)
	case demote:
		c.demote()
	case thereBack:
		c.back()
	case migrate:
		c.migrate(p.of(2))
	case evict:
		c.evict(p.of(16))
	case trim:
		c.trim()
	case oom:
		c.full = !c.full
	case erase:
		c.erase(topics[p.of(len(topics))])
	case renew:
		c.renew()
	case retain:
		c.w.agree(40 << (4 * p.of(2)))
		c.w.hit(agreedAnew)
	}
}

// start brings up the nodes and connects the phones.
func (w *world) start() {
	w.settle()
	for i, p := range w.phones {
		p.connect(w.hubs[i])
	}
	w.settle()
}

// settle brings up all links, and lets everything happen that is pending.
func (w *world) settle() {
	for range 200 {
		busy := false
		for _, h := range w.hubs {
			for _, s := range h.sides {
				if s.calls != s.cluster().serving() {
					s.calls = s.cluster().serving()
				}
				for _, v := range []verb{connect, link, work, script, answer} {
					busy = s.take(v, 8) || busy
				}
			}
		}
		for _, p := range w.phones {
			for p.session != nil && len(p.session.frames) > 0 {
				p.receive()
				busy = true
			}
		}
		if !busy {
			return
		}
	}
	w.fail("there is no end to it")
}

// settlePhone lets everything happen that a phone and its node can do without
// others.
func (w *world) settlePhone(p *phone) {
	for range 20 {
		if p.session == nil {
			return
		}
		for _, s := range p.session.hub.sides {
			for _, v := range []verb{link, work, script, answer} {
				s.take(v, 8)
			}
		}
		for p.session != nil && len(p.session.frames) > 0 {
			p.receive()
		}
	}
}

// heal ends all faults, makes every device come back twice, and checks what they
// have.
func (w *world) heal() {
	w.step++
	for _, c := range w.clusters {
		c.moving, c.full = false, false
		c.demote()
	}
	for _, h := range w.hubs {
		for _, s := range h.sides {
			if s.deaf || s.link != s.cluster().serving() {
				s.cut(8)
			}
		}
	}
	for round := range 3 {
		for i := range 2 * nodes {
			for _, s := range w.hubs[i%nodes].sides {
				s.fence() // a node that hears of lost data begins an epoch
			}
			w.settle()
		}
		for i, p := range w.phones {
			if round > 0 {
				p.cut()
			}
			p.connect(w.hubs[(i+round)%nodes])
			w.settle()
			p.check()
		}
	}
}

// check checks a phone to which nothing is on its way any more.
func (p *phone) check() {
	if p.session == nil {
		p.w.fail("%s cannot connect", p.name())
		return
	}
	for i := range partitions {
		if !p.session.device.Live(i) {
			p.w.fail("%s never goes live", p.name())
		}
	}
	for n, due := range p.due {
		for i, debt := range due {
			if debt.by != 0 && debt.step > p.told[i] {
				p.w.fail("%s lacks message %d of step %d, and was told at %d", p.name(), n, debt.step, p.told[i])
			}
		}
	}
}
