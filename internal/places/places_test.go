package places_test

import (
	"reflect"
	"testing"

	"github.com/heraldgo/herald/internal/places"
)

func TestOf(t *testing.T) {
	for _, test := range []struct {
		userTopic string
		topics    []string
		want      []places.Place
	}{
		{"", nil, []places.Place{}},
		{"u", nil, []places.Place{{"n.1", "u", true}}},
		{"", []string{"g", ""}, []places.Place{{"n.1", "g", false}, {"n.1", "", false}}},
		{"u", []string{"g", "u", "h"}, []places.Place{{"n.1", "u", true}, {"n.1", "g", false}, {"n.1", "h", false}}},
	} {
		got := places.Of("n.1", test.userTopic, test.topics)
		if !reflect.DeepEqual(got, test.want) {
			t.Errorf("Of(%q, %q) = %v, want %v", test.userTopic, test.topics, got, test.want)
		}
		userTopic, topics := places.Topics(got)
		if again := places.Of("n.1", userTopic, topics); !reflect.DeepEqual(again, got) {
			t.Errorf("Topics(%v) = %q, %q", got, userTopic, topics)
		}
	}
}

func TestSort(t *testing.T) {
	a, b, c, d := places.Place{"1", "g", true}, places.Place{"1", "g", false}, places.Place{"1", "h", true}, places.Place{"2", "a", true}
	got := places.Sort([]places.Place{d, b, c, a, b, a, d})
	if want := []places.Place{a, b, c, d}; !reflect.DeepEqual(got, want) {
		t.Errorf("Sort gives %v, want %v", got, want)
	}
}
