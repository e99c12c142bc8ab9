# The checks that CI runs, and the fuzz targets. CONTRIBUTING.md says more.

FUZZTIME ?= 60s

.PHONY: test long fuzz mutation faults modules

# Everything CI checks, in every module. Installs the servers that the tests need, and
# fetches other versions of some, if it can; otherwise it says which tests were left out.
test:
	@sh .ci/servers
	@sh .ci/fetch
	@sh .ci/test

# The long forms of tests, which take an hour or two: the code broken for each promise
# of History and of Watch, a million runs of History's model, an upgrade from a build
# without it, a million batches for its scripts, a minute in which the members of a watched
# room come and go, a thousand nodes, 10,000 receipts while nodes are killed, a million
# messages to and from connections that are parked and woken, and Autobahn's cases of
# compression with all their messages.
long:
	HERALD_PARK_CONNS=9500 HERALD_PARK_MESSAGES=1000000 HERALD_PARK_QUIET_MS=1000 go test -v -timeout 1h -run '^TestFire$$' ./internal/test/parktest
	HERALD_WATCH_FOR=1m go test -v -run '^TestWatch$$' ./internal/test/watchtest
	HERALD_BROKEN_PROMISES=1 go test -timeout 2h -run '^TestBrokenPromises$$' ./internal/test/watchtest
	HERALD_NODES=1000 go test -v ./internal/test/manytest
	HERALD_DELIVER_CALLS=10000 go test -timeout 1h -v -run '^TestKilledNodes$$' ./internal/test/receipttest
	HERALD_BROKEN_PROMISES=1 go test -timeout 1h -run '^TestBrokenPromises$$' ./internal/test/resumetest
	HERALD_HISTORY_RUNS=1000000 go test -timeout 2h -run '^TestModel$$' ./internal/test/historymodel
	cd test/faults && go run . -retention with -fault upgrade -old 7e45f96
	HERALD_HISTORY_BATCHES=1000000 go test -timeout 3h -run '^TestScripts$$' ./internal/history/redislog
	HERALD_AUTOBAHN_MESSAGES=1000 go test -timeout 2h -run '^TestDeflate$$' ./internal/test/autobahn

# Every fuzz target of the root module, one after the other.
fuzz:
	@FUZZTIME=$(FUZZTIME) sh .ci/fuzz

# Changes the code that needs no server, at one place after the other, and says
# which changes its tests do not notice. Takes some minutes; not part of CI.
mutation:
	@sh .ci/mutation

# The table of docs/faults.md, which takes some 15 minutes on a quiet machine. Its
# smoke test is part of test.
faults:
	@cd test/faults && go run .

# The modules of this repository.
modules:
	@sh .ci/modules
