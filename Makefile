# The checks that CI runs, and the fuzz targets. CONTRIBUTING.md says more.

FUZZTIME ?= 60s

.PHONY: test fuzz mutation faults modules

# Everything CI checks, in every module. Installs the servers that the tests
# need if it can; otherwise it says which tests were left out.
test:
	@sh .ci/servers
	@sh .ci/test

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
