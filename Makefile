# The checks that CI runs, and the fuzz targets. CONTRIBUTING.md says more.

FUZZTIME ?= 60s

.PHONY: test fuzz mutation modules

# Everything CI checks, in every module. Installs the servers that the tests
# need where it can, and says which tests were left out where it can not.
test:
	@sh .ci/servers
	@sh .ci/test

# Every fuzz target of the root module, one after the other.
fuzz:
	@FUZZTIME=$(FUZZTIME) sh .ci/fuzz

# Whether the tests of what needs no server notice what is changed in it. Takes
# most of an hour, and is no part of CI.
mutation:
	@sh .ci/mutation

# The modules of this repository.
modules:
	@sh .ci/modules
