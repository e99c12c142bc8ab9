package historymodel

import (
	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/device"
	"github.com/heraldgo/herald/internal/history/store"
)

// A rule is something that must happen in some runs, because otherwise they prove
// nothing about it.
type rule uint8

const (
	restartWithData rule = iota
	restartFromDisk
	restartEmpty
	failover
	split
	thereAndBack
	migrated
	migrationAborted
	tableEvicted
	segmentEvicted
	flushed
	trimmed
	clockBack
	storeFull
	forgotten
	renewed
	agreedAnew
	answerLost
	nodeKilled

	wrongEpoch
	wrongSegment

	surveyWhole
	surveyFork
	surveyUnknown
	surveyFuture
	surveyBroken
	readOtherEpoch
	readMissing
	readAhead

	deafLink
	crossedLive
	gapTold
	gaveUp
	markTold
	belowFloor

	resumed
	followed
	resumedComplete
	resumedIncomplete
	joined
	left
	excepted
	copyAtClient
	droppedOldest
	tooSlow
	rules
)

var ruleNames = [rules]string{
	restartWithData:   "Redis restarts with its data",
	restartFromDisk:   "Redis restarts with what it had saved",
	restartEmpty:      "Redis restarts with nothing",
	failover:          "failover",
	split:             "the old master lives on",
	thereAndBack:      "A to B to A",
	migrated:          "a slot moves",
	migrationAborted:  "a migration is aborted",
	tableEvicted:      "the table is evicted",
	segmentEvicted:    "a segment is evicted",
	flushed:           "FLUSHALL",
	trimmed:           "retention moves the horizon",
	clockBack:         "Redis' clock steps back",
	storeFull:         "an append is refused by the store",
	forgotten:         "what is kept for a topic is forgotten",
	renewed:           "a new epoch begins, though nothing was lost",
	agreedAnew:        "the nodes agree on keeping more, or less",
	answerLost:        "the answer to an append is lost",
	nodeKilled:        "a node is killed",
	wrongEpoch:        "an append meets another epoch",
	wrongSegment:      "an append names the wrong segment",
	surveyWhole:       "a survey is whole",
	surveyFork:        "a survey begins in the parent epoch",
	surveyUnknown:     "a survey begins in an unknown epoch",
	surveyFuture:      "a survey begins in the future",
	surveyBroken:      "a survey finds a chain broken, or the horizon above",
	readOtherEpoch:    "a read meets another epoch than its survey",
	readMissing:       "a read lacks what its survey saw",
	readAhead:         "a device takes what was read ahead",
	deafLink:          "a link is deaf",
	crossedLive:       "a live device crosses into a new epoch",
	gapTold:           "a gap is told",
	gaveUp:            "a node gives up a repair",
	markTold:          "a quiet device gets a mark",
	belowFloor:        "a live device does not take what it had",
	resumed:           "a device comes back",
	followed:          "a device takes what its node has handed on, in pages",
	resumedComplete:   "a resume is complete",
	resumedIncomplete: "a resume is incomplete",
	joined:            "a topic is joined on a connection",
	left:              "a topic is left on a connection",
	excepted:          "a message is not for one connection",
	copyAtClient:      "a client leaves out a second copy",
	droppedOldest:     "a full queue drops the oldest",
	tooSlow:           "a full queue ends the connection",
}

// counts counts how often each rule was met.
type counts [rules]int

func (w *world) hit(r rule) { w.hits[r]++ }

func (w *world) hitReply(r store.Reply) {
	switch r.Outcome {
	case store.WrongEpoch:
		w.hit(wrongEpoch)
	case store.WrongSegment:
		w.hit(wrongSegment)
	}
}

func (w *world) hitSurvey(a ask, s history.Survey) {
	switch {
	case s.Whole:
		w.hit(surveyWhole)
	case s.Fork.Parent != 0:
		w.hit(surveyFork)
	case a.from.Epoch != s.End.Epoch:
		w.hit(surveyUnknown)
	case a.from.Offset > s.End.Offset:
		w.hit(surveyFuture)
	default:
		w.hit(surveyBroken)
	}
}

func verdict(v device.Verdict) rule {
	if v == device.Complete {
		return resumedComplete
	}
	return resumedIncomplete
}
