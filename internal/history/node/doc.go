// Package node has a node's side of a partition: what it appends to the log, and
// what it hands on to its devices.
//
//	        Restored          Surveyed: entries
//	down ──────────────> asked ──────────────> reading
//	 ^                   ^ │ ^ <── other epoch ── │
//	 │ Down, from        │ │ └ Follow             │
//	 │ every state       │ │ Surveyed: none       │ the last Entries
//	                     │ v                      │
//	                   flowing <──────────────────┘
//
// A hole, or another epoch, leads from flowing to asked. GaveUp leads from asked
// and reading to flowing.
//
// While a Feed is flowing it hands on what comes. While it is asked or reading it holds
// that, and makes no Mark.
package node
