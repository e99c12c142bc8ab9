package herald

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http/httptest"
	"slices"
	"testing"
)

// Conns join and leave groups, some of them many, in any order. The index says
// of each Conn and of each topic what a plain map says.
func TestIndexAgainstMaps(t *testing.T) {
	h := newHub(t, Config{})
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 0))
		x := newIndex()
		conns := make([]*Conn, 5)
		want := make([]map[string]bool, len(conns))
		enter := func(i int) {
			conns[i] = &Conn{hub: h, counter: h.counter.Add(1), identity: Identity{User: fmt.Sprint("u", i%3)}}
			want[i] = map[string]bool{topicEveryone: true, userTopic(conns[i].User()): true}
			if !x.add(conns[i], 0, 0) {
				t.Fatal("not added")
			}
		}
		for i := range conns {
			enter(i)
		}
		spread := []int{5, 3 * fewTopics, 2 * indexStep}[seed%3]
		for range 300 {
			i := random.IntN(len(conns))
			switch c := conns[i]; random.IntN(10) {
			case 0:
				topics := x.remove(c)
				slices.Sort(topics)
				if !slices.Equal(topics, slices.Sorted(maps.Keys(want[i]))) {
					t.Fatalf("seed %d: removed from %d topics, want %d", seed, len(topics), len(want[i]))
				}
				if joined, _ := x.joinGroups(c, []string{"g"}, 0); len(joined) > 0 || x.remove(c) != nil {
					t.Fatalf("seed %d: joined after the removal", seed)
				}
				enter(i)
			case 1, 2, 3, 4:
				group := fmt.Sprint(random.IntN(spread))
				if x.leaveGroup(c, group) != want[i][groupTopic(group)] {
					t.Fatalf("seed %d: left %q", seed, group)
				}
				delete(want[i], groupTopic(group))
			default:
				groups := make([]string, random.IntN(spread))
				fresh := make(map[string]bool)
				for j := range groups {
					groups[j] = fmt.Sprint(random.IntN(spread))
					if !want[i][groupTopic(groups[j])] {
						fresh[groupTopic(groups[j])] = true
					}
				}
				limit := random.IntN(2 * spread)
				joined, err := x.joinGroups(c, groups, limit)
				if over := limit > 0 && len(want[i])-2+len(fresh) > limit; over != (err != nil) {
					t.Fatalf("seed %d: %d groups and %d more with a limit of %d: %v", seed, len(want[i])-2, len(fresh), limit, err)
				} else if over {
					fresh = nil
				}
				if slices.Sort(joined); !slices.Equal(joined, slices.Sorted(maps.Keys(fresh))) {
					t.Fatalf("seed %d: joined %q, want %q", seed, joined, slices.Sorted(maps.Keys(fresh)))
				}
				maps.Copy(want[i], fresh)
			}
			checkIndex(t, x, conns, want)
		}
	}
}

func checkIndex(t *testing.T, x *index, conns []*Conn, want []map[string]bool) {
	t.Helper()
	members := make(map[string][]*Conn)
	for i, c := range conns {
		topics := x.topicsOf(c)
		if slices.Sort(topics); !slices.Equal(topics, slices.Sorted(maps.Keys(want[i]))) {
			t.Fatalf("conn %d has topics %q, want %q", i, topics, slices.Sorted(maps.Keys(want[i])))
		}
		if s := x.strays(c, append(topics, "gnot there")); !slices.Equal(s, []string{"gnot there"}) {
			t.Fatalf("strays %q", s)
		}
		for topic := range want[i] {
			members[topic] = append(members[topic], c)
		}
	}
	if _, _, topics := x.size(); topics != len(members) {
		t.Fatalf("%d topics, want %d", topics, len(members))
	}
	for topic, want := range members {
		found := x.appendConns(nil, topic)
		slices.SortFunc(found, func(a, b *Conn) int { return int(a.counter) - int(b.counter) })
		slices.SortFunc(want, func(a, b *Conn) int { return int(a.counter) - int(b.counter) })
		if !slices.Equal(found, want) {
			t.Fatalf("topic %q has %d Conns, want %d", topic, len(found), len(want))
		}
	}
}

// Who is in many groups, and joins them one by one, makes no list of them for
// each.
func TestManyGroupsAreCountedInPlace(t *testing.T) {
	h := newHub(t, Config{})
	c := h.newConn(httptest.NewRequest("GET", "/", nil), Identity{User: "u"})
	h.index.add(c, 0, 0)
	var groups []string
	for i := range 500 {
		groups = append(groups, fmt.Sprint("g", i))
	}
	if _, err := h.index.joinGroups(c, groups, 500); err != nil {
		t.Fatal(err)
	}
	one := groupTopics([]string{"g500", "g0"})
	if n := h.index.countWith(c, one); n != 501 {
		t.Errorf("counted %d", n)
	}
	if n := testing.AllocsPerRun(100, func() { h.index.countWith(c, one) }); n > 2 {
		t.Errorf("%v allocations", n)
	}
	h.index.remove(c)
}
