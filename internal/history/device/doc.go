// Package device has the server's side of a connection whose client can come back
// to where it was, and the client's side.
//
// In each partition a Device has a cursor:
//
//	Begin ── no position ────────────────────────────────> live
//	  │                                                     ^
//	  │ position                      what is left is recent│
//	  v                                                     │
//	asked ──── Surveyed ────> reading ─── the last Entries ─┤
//	  ^                          │                          │ more has come
//	  └────── other epoch ───────┴──────────────────────────┘
//
// A Join while it is asked asks again. Only while it is live does it take what the
// node's Feed hands on and the log keeps. Before, it reads that from the log.
package device
