package watchtest

import (
	"regexp"
	"testing"

	"github.com/heraldgo/herald/internal/test/overlay"
)

// A broken promise is an edit that takes away the code which keeps it.
type broken struct {
	promise string // the number in registry.go, or the method of a Hub
	without string
	edits   []overlay.Edit
	tests   tests // the tests of the promise
}

// tests names some tests of a package.
type tests struct{ pkg, run string }

// These are subtests of a Registry's suite, in memory and on Redis.
func inMemory(subtest string) tests { return tests{"heraldtest", "^TestMemoryRegistry$/^" + subtest} }
func onRedis(subtest string) tests  { return tests{"heraldtest", "^TestRedisRegistry$/^" + subtest} }

const (
	commonLua  = "internal/redisregistry/lua/common.lua"
	addLua     = "internal/redisregistry/lua/add.lua"
	removeLua  = "internal/redisregistry/lua/remove.lua"
	sweepLua   = "internal/redisregistry/lua/sweep.lua"
	watchLua   = "internal/redisregistry/lua/watch.lua"
	watchFile  = "internal/redisregistry/watch.go"
	storeFile  = "registry_memory_store.go"
	memoryFile = "registry_memory.go"
	roomFile   = "internal/watching/room.go"
	viewFile   = "internal/watching/view.go"
	outboxFile = "internal/watching/outbox.go"
	queryFile  = "query.go"

	entriesFile  = "internal/redisregistry/entries.go"
	leaseFile    = "lease.go"
	receiveFile  = "receive.go"
	shutdownFile = "shutdown.go"
)

var brokenPromises = []broken{
	{"17", "marks", []overlay.Edit{{watchLua, "mark(KEYS[2], number)\n", ""}}, onRedis("18_Numbers")},
	{"17", "the mark of the shard", []overlay.Edit{{watchLua, "mark(KEYS[1], '1')\n", ""}}, onRedis("18_Numbers")},
	{"17", "the longer of two marks", []overlay.Edit{{watchLua, "math.max(left, tonumber(ARGV[1]))", "tonumber(ARGV[1])"}}, onRedis("18_Numbers")},
	{"17", "the longer of two marks, in memory", []overlay.Edit{{memoryFile, "max(mark.until, now+min(ttl, redisregistry.MaxLease).Microseconds())", "now + min(ttl, redisregistry.MaxLease).Microseconds()"}}, inMemory("18_Numbers")},
	{"17", "a day as the longest mark", []overlay.Edit{{watchFile, "min(ttl, keyLasts)", "ttl"}}, onRedis("17_Day")},
	{"17", "a day as the longest mark, in memory", []overlay.Edit{{memoryFile, "min(ttl, redisregistry.MaxLease)", "max(ttl, redisregistry.MaxLease)"}}, tests{"heraldtest", "^TestMemoryRegistryInBubble$/^17_Day"}},
	{"17", "a list in the same step", []overlay.Edit{{watchFile, "\tsessions, err := r.living(", "\tfor i, topic := range topics {\n\t\tagain := newShardPipe(store)\n\t\treply := again.on(r.shardOf(topic)).HGetAll(ctx, r.shards[r.shardOf(topic)].topicKey(topic))\n\t\tif _, err := again.exec(ctx); err != nil {\n\t\t\treturn nil, err\n\t\t}\n\t\thashes[i] = reply.Val()\n\t}\n\tsessions, err := r.living("}}, onRedis("18_Racing")},
	{"17", "a look at the lease", []overlay.Edit{{watchFile, "look, lease, topics, hashes)", "look, Lease{}, topics, hashes)"}}, onRedis("17_Watch")},
	{"17", "a look at the lease, in memory", []overlay.Edit{{memoryFile, "\t\treturn s.eachLive(lease, topics, func(i int, v memoryValue) {\n", "\t\treturn s.eachLive(Lease{}, topics, func(i int, v memoryValue) {\n"}}, inMemory("17_Watch")},
	{"18", "a change for one who comes", []overlay.Edit{{addLua, "if not there or generationOf(there) ~= generation then", "if there and generationOf(there) ~= generation then"}}, onRedis("18_Numbers")},
	{"18", "a change for what another lease added", []overlay.Edit{{addLua, "if not there or generationOf(there) ~= generation then", "if not there then"}}, onRedis("18_Sweep")},
	{"18", "a look whether it is there", []overlay.Edit{{addLua, "if not there or generationOf(there) ~= generation then", "if true then"}}, onRedis("18_Numbers")},
	{"18", "a change for one who leaves", []overlay.Edit{{removeLua, "    if last then\n", "    if false then\n"}}, onRedis("18_Numbers")},
	{"18", "a change for one who is swept", []overlay.Edit{{sweepLua, "    if last then\n", "    if false then\n"}}, onRedis("18_Sweep")},
	{"18", "numbers that follow each other", []overlay.Edit{{commonLua, "text(last + 1)", "text(last + 2)"}}, onRedis("18_Numbers")},
	{"18", "a note of the number", []overlay.Edit{{commonLua, "  redis.call('SET', mark, number, 'KEEPTTL')\n", ""}}, onRedis("18_Racing")},
	{"18", "the time that a mark lasts", []overlay.Edit{{commonLua, "number, 'KEEPTTL')", "number)"}}, onRedis("18_Numbers")},
	{"18", "a clock for a new mark", []overlay.Edit{{watchLua, "text(last or time)", "text(last or 1)"}}, onRedis("18_Numbers")},
	{"18", "a look at spoilt marks", []overlay.Edit{{commonLua, "return last and (credible(last, now()) or now()) or nil", "return last and tonumber(last) or nil"}}, tests{"internal/redisregistry", "^TestSpoiltMark$"}},
	{"18", "a look at spoilt marks by Watch", []overlay.Edit{{watchLua, "local last = credible(stored, time)", "local last = tonumber(stored or nil)"}}, tests{"internal/redisregistry", "^TestSpoiltMark$"}},
	{"18", "a change for what another lease added, in memory", []overlay.Edit{{storeFile, "!ok || old.lease != value.lease", "!ok && old.lease != value.lease"}}, inMemory("18_Sweep")},
	{"18", "a look whether it is there, in memory", []overlay.Edit{{storeFile, "!ok || old.lease != value.lease", "!ok || old.lease == value.lease"}}, inMemory("18_Numbers")},
	{"18", "a change for one who leaves, in memory", []overlay.Edit{{storeFile, "\ts.change(Change{Topic: p.Topic, Session: Session{ID: p.ID}, Left: true})\n", ""}}, inMemory("18_Numbers")},
	{"18", "a clock for a new mark, in memory", []overlay.Edit{{memoryFile, "mark.number = now", "mark.number = 1"}}, inMemory("18_Numbers")},
	{"18", "the end of a mark, in memory", []overlay.Edit{{storeFile, "!ok || s.now() >= m.until", "!ok"}, {memoryFile, "return now >= mark.until", "return false && now >= mark.until"}}, inMemory("18_Numbers")},
	{"19", "taking changes once", []overlay.Edit{{watchFile, "\tr.made.list = nil\n", ""}}, onRedis("19_Changes")},
	{"19", "taking changes once, in memory", []overlay.Edit{{memoryFile, "\tm.changes = nil\n", ""}}, inMemory("19_Changes")},
	{"19", "the time of the Session", []overlay.Edit{{watchFile, "\t\t\tchange.Session.Since = time.UnixMicro(since)\n", "\t\t\t_ = since\n"}}, onRedis("19_Changes")},
	{"19", "room for a thousand changes", []overlay.Edit{{watchFile, "1 << 14", "900"}}, onRedis("19_Changes")},
	{"19", "the order of the numbers", []overlay.Edit{{watchFile, "c.list = append(c.list, change)", "c.list = append([]Change{change}, c.list...)"}}, onRedis("18_Numbers")},
	{"19", "the changes of a call that returned early", []overlay.Edit{{entriesFile, "\t\tr.made.noteAdded(plan.now, replies)\n", "\t\tif ctx.Err() == nil {\n\t\t\tr.made.noteAdded(plan.now, replies)\n\t\t}\n"}}, tests{"internal/redisregistry", "^TestLateChanges$"}},
	{"20", "a look at the topic's mark", []overlay.Edit{{commonLua, "  return last and (credible(last, now()) or now()) or nil", "  return last and (credible(last, now()) or now()) or now()"}}, onRedis("20_Unwatched")},
	{"20", "a look at the topic's mark, in memory", []overlay.Edit{{storeFile, "!ok || s.now() >= m.until", "ok && s.now() >= m.until"}}, inMemory("20_Unwatched")},
	{"Watch", "a look at numbers that are past", []overlay.Edit{{viewFile, "\tif v.listed && c.Number <= v.number {", "\tif false && c.Number <= v.number {"}}, tests{"internal/watching", "^TestWatch.*$"}},
	{"Watch", "what is heard while a list is under way", []overlay.Edit{{viewFile, "\tfor _, c := range heard {", "\tfor _, c := range heard[:0] {"}}, tests{"internal/watching", "^TestWatchDuringList$"}},
	{"Watch", "a bound on what is heard meanwhile", []overlay.Edit{{viewFile, "\tif len(heard) > maxEarly {", "\tif len(heard) > maxEarly && false {"}}, tests{"internal/watching", "^TestWatchDuringList$"}},
	{"Watch", "a bound on what waits for earlier numbers", []overlay.Edit{{viewFile, "\tif len(v.early) < maxEarly {", "\tif true {"}}, tests{"internal/watching", "^TestViewBounds$"}},
	{"Watch", "a look whether who leaves was there", []overlay.Edit{{viewFile, "case c.Left && there:", "case c.Left:"}}, tests{"internal/watching", "^TestNoNews$"}},
	{"Watch", "a look whether who comes is there", []overlay.Edit{{viewFile, "case !c.Left && !there:", "case !c.Left:"}}, tests{"internal/watching", "^TestNoNews$"}},
	{"Watch", "a comparison of who has come", []overlay.Edit{{viewFile, "\t\tif _, ok := v.there[id]; !ok {\n\t\t\ttell(s, false)", "\t\tif _, ok := v.there[id]; ok || !ok {\n\t\t\ttell(s, false)"}}, tests{"internal/watching", "^TestWatch.*$"}},
	{"Watch", "a comparison of who has left", []overlay.Edit{{viewFile, "\t\t\ttell(s, true)\n\t\t}\n\t}\n\tfor", "\t\t\t_ = s\n\t\t}\n\t}\n\tfor"}}, tests{"internal/watching", "^TestWatch.*$"}},
	{"Watch", "silence about those who came and left meanwhile", []overlay.Edit{{viewFile, "\t\tdelete(n, s.ID)\n\t\treturn\n", "\t\t_ = 0\n"}}, tests{"internal/watching", "^TestWatch$"}},
	{"Watch", "a look for holes", []overlay.Edit{{roomFile, "\tif doubted || t.view.hole() {", "\tif doubted {"}, {roomFile, "t.view.hole() && at.Before(due)", "false && at.Before(due)"}}, tests{"internal/watching", "^TestWatchHole$"}},
	{"Watch", "a list after a doubt", []overlay.Edit{{roomFile, "\tif t.doubted || due", "\tif due"}}, tests{"internal/watching", "^TestWatch$"}},
	{"Watch", "a pause after a list that did not fill a hole", []overlay.Edit{{roomFile, "if t.doubted || due.Before(soonest) {", "if t.doubted {"}}, tests{"internal/watching", "^TestWatchHoleWhileDown$"}},
	{"Watch", "a doubt about a malformed packet", []overlay.Edit{{roomFile, "t.hear(changes, err != nil)", "t.hear(changes, false)"}}, tests{"internal/watching", "^TestMalformed$"}},
	{"Watch", "a list in each lease", []overlay.Edit{{roomFile, "pause = t.config.Every*9/10", "pause = 9*t.config.Every"}}, tests{"internal/watching", "^TestWatch$"}},
	{"Watch", "an empty first Presence", []overlay.Edit{{queryFile, "(first || err != nil ||", "(first && false || err != nil ||"}}, tests{"internal/test/watchtest", "^TestFollowsFirst$"}},
	{"Watch", "silence about nothing", []overlay.Edit{{queryFile, "|| !p.empty()) && !yield", "|| true) && !yield"}}, tests{"internal/test/watchtest", "^TestTellMembersBack$"}},
	{"Watch", "an error of the first list", []overlay.Edit{{roomFile, "case !listed && failed != nil:", "case !listed && failed != nil && ended:"}}, tests{"internal/watching", "^TestWatchFails$"}},
	{"Watch", "a view that stands while the Registry is down", []overlay.Edit{{roomFile, "\tt.err = err\n", "\tt.err = err\n\tif err != nil {\n\t\tt.view.list(0, nil, t.tell)\n\t}\n"}}, tests{"internal/watching", "^TestWatchFails$"}},
	{"Watch", "one list for all who watch", []overlay.Edit{{roomFile, "\tif t == nil {\n\t\tctx", "\tif true {\n\t\tctx"}}, tests{"internal/watching", "^TestWatch$"}},
	{"Watch", "an end", []overlay.Edit{{roomFile, "\tt.ended = true\n", ""}}, tests{"internal/test/watchtest", "^TestEnds$"}},
	{"Watch", "a bound on what is to be published", []overlay.Edit{{outboxFile, "changes[:min(len(changes), maxWaiting-len(o.list))]...", "changes..."}}, tests{"internal/watching", "^TestOutboxBound$"}},
	{"Watch", "a bound on packets", []overlay.Edit{{outboxFile, "if len(b) >= packetSize {", "if false {"}}, tests{"internal/watching", "^TestOutboxPackets$"}},
	{"Watch", "following first", []overlay.Edit{{queryFile, "\tif err := heard.Wait(ctx); err != nil {", "\tif err := context.Cause(ctx); err != nil {"}, {queryFile, "\theard := h.follower.Follow(watchTopic(topic))\n\tdefer h.", "\th.follower.Follow(watchTopic(topic))\n\tdefer h."}}, tests{"internal/test/watchtest", "^TestFollowsFirst$"}},
	{"Watch", "a mark that lasts until the next list", []overlay.Edit{{queryFile, "3*h.config.Lease, topic)", "h.config.Lease/2, topic)"}}, tests{"internal/test/watchtest", "^TestFollowsFirst$"}},
	{"Watch", "a word of what this node's calls have changed", []overlay.Edit{{leaseFile, "\tp.tellChanges()\n\tfor i, op", "\tfor i, op"}}, tests{"internal/test/watchtest", "^TestChangesAlone$"}},
	{"Watch", "doubts after a gap", []overlay.Edit{{receiveFile, "\t\t\th.watching.Doubt()\n", ""}, {shutdownFile, "\th.watching.Doubt()\n", ""}}, tests{"internal/test/watchtest", "^TestGap$"}},
	{"TellMembers", "all who are there", []overlay.Edit{{queryFile, "case !before[c]:", "case !before[c] && false:"}}, tests{"docs", "^TestTellMembers$"}},
	{"TellMembers", "changes", []overlay.Edit{{queryFile, "case !before[c]:", "case !before[c] || true:"}}, tests{"docs", "^TestTellMembers$"}},
	{"TellMembers", "those who have left", []overlay.Edit{{queryFile, "\t\tfor _, s := range p.Left {\n\t\t\tdelete(there, s.ID)\n\t\t}\n", ""}}, tests{"internal/test/watchtest", "^TestTellMembers$"}},
	{"TellMembers", "an order", []overlay.Edit{{queryFile, "slices.SortedFunc(maps.Values(there), compareSessions)", "slices.SortedFunc(maps.Values(there), func(a, b Session) int { return compareSessions(b, a) })"}}, tests{"internal/test/watchtest", "^TestTellMembers$"}},
	{"TellMembers", "silence about nothing", []overlay.Edit{{queryFile, "\t\t\tcase p.empty():\n\t\t\t\tcontinue\n", ""}}, tests{"internal/test/watchtest", "^TestTellMembersBack$"}},
	{"TellMembers", "a round if a change was undone", []overlay.Edit{{roomFile, "\t\tcase listed:", "\t\tcase listed && len(told) > 0:"}}, tests{"internal/test/watchtest", "^TestTellMembersBack$"}},
	{"TellMembers", "a round after each list", []overlay.Edit{{roomFile, "if err == nil || !t.view.listed {", "if !t.view.listed || len(t.view.there) == 0 {"}}, tests{"internal/test/watchtest", "^TestTellMembersBack$"}},
	{"TellMembers", "all for one who is back", []overlay.Edit{{queryFile, "\t\ttold = make(map[*Conn]bool)\n\t\tvar all", "\t\tvar all"}}, tests{"internal/test/watchtest", "^TestTellMembers$"}},
}

var failed = regexp.MustCompile(`(?m)^ *--- FAIL: |^panic: `)

// If the code breaks a promise, a test of that promise fails.
func TestBrokenPromises(t *testing.T) {
	var rules []overlay.Rule
	for _, b := range brokenPromises {
		rules = append(rules, overlay.Rule{Name: b.promise + " without " + b.without, Edits: b.edits, Package: b.tests.pkg, Run: b.tests.run})
	}
	overlay.Broken(t, "../../..", failed, rules)
}
