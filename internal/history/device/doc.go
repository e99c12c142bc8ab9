// Package device has the server's side of a connection whose client can come back
// to where it was, and the client's side.
//
// In each partition a Device has a cursor:
//
//	Begin ── no position ──────────────────────────────────────> live
//	  │                                                            ^
//	  │ position                                     little is left│
//	  v                                                            │
//	asked ── Surveyed ──> reading ── the last Entries ──> trailing ┤
//	  ^                      │                             │   ^   │ Follow
//	  └──── other epoch ─────┴──── not recent any more ────┘   └───┘
//
// A Join while it is asked asks again. Only while it is live does it take what the
// node's Feed hands on and the log keeps. Before, it reads that from the log, and at
// the end, while it is trailing, from what the Feed has handed on last.
package device
