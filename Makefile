# chromogenic: targets for operators first, then for contributors.
SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
GO          ?= go
PREFIX      ?= /usr/local
SBINDIR     ?= /usr/sbin
FUZZTIME    ?= 5m
BENCHTIME   ?= 1s
SOAK        ?= 30m
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS     := -s -w -X main.version=$(VERSION)

# What needs no root, no mount and no server.
UNIT = $(shell $(GO) list ./... | grep -v '/test/')
# The program for the sandboxes of the cleaner, which is built into the binary.
WORKER = cleaner/worker/worker
# A linter that is built once and kept by Go's cache.
LINT = $$($(GO) -C tools tool -n golangci-lint)

.PHONY: help build demo install check test test-mount test-cloud test-full bench lint fuzz deps clean
.DEFAULT_GOAL := build

help: ## say what the targets do
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

build: ## write bin/chromogenic, one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o $(WORKER) ./cleaner/worker
	CGO_ENABLED=0 $(GO) build -trimpath -tags worker -ldflags '$(LDFLAGS)' -o bin/chromogenic .

demo: build ## show what it does, on an image made for it (under 2 minutes)
	@scripts/demo.sh bin/chromogenic

# mount(8) looks for its helpers in /sbin alone, whatever PREFIX is. Who may not
# write there has no use for them.
install: build ## install below PREFIX (/usr/local), with the helpers of mount(8)
	install -D -m 0755 bin/chromogenic $(DESTDIR)$(PREFIX)/bin/chromogenic
	install -d $(DESTDIR)$(PREFIX)/share/man/man8 $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	bin/chromogenic man > $(DESTDIR)$(PREFIX)/share/man/man8/chromogenic.8
	bin/chromogenic completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/chromogenic
	@if install -d $(DESTDIR)$(SBINDIR) 2>/dev/null && [ -w $(DESTDIR)$(SBINDIR) ]; then \
		ln -sfn $(PREFIX)/bin/chromogenic $(DESTDIR)$(SBINDIR)/mount.chromogenic; \
		ln -sfn $(PREFIX)/bin/chromogenic $(DESTDIR)$(SBINDIR)/mount.fuse.chromogenic; \
	else echo "$(SBINDIR) cannot be written: mount -t chromogenic and fstab will not work"; fi

check: ## format, vet and the quick tests: no root, no server, under 3 minutes
	@unformatted=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go' 2>/dev/null || find . -name '*.go')); \
	if [ -n "$$unformatted" ]; then echo "not formatted by gofmt:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) test -short $(UNIT)

deps: ## install the Debian packages that the tests need (as root), or name them
	@scripts/deps.sh

# Races are looked for where things go on at once: below the formats, which are pure
# functions, and through the mount where many work. make test-full looks everywhere.
SHARED = ./disk/... ./fs ./pipeline/... ./providers ./providers/local/... ./providers/openstack/... ./providers/providertest/... ./providers/internal/crypt
PURE = $(filter-out $(shell $(GO) list $(SHARED)),$(UNIT))
RACY = ^Test(Load|Soak|Race|RaceOfMounts|TwoWriters|ParallelCopies|ServerKilled|ServerEndsDuringCopy|Captures|CasualReaders|TenImages|CopyWholeFolder|RandomReads|RmAtOnce|RmWhileRead|SetKilled|SetInUse|Bandwidth|HungSource|Interrupted|TakenNameReplaced|Replugged)$$

# As root nothing may be skipped, and CI says so to the tests. Others may have no
# right to mount a tmpfs, and see what was skipped.
test: deps check ## all tests, with real tools, mounts and the race detector (under 25 minutes)
	[ "$$(id -u)" != 0 ] || export CI="$${CI:-true}"; \
	{ failed=0; \
	$(GO) test -race -count=1 -timeout 20m -v $(SHARED) || failed=1; \
	$(GO) test -count=1 -timeout 20m -v $(PURE) || failed=1; \
	$(MAKE) -s -j2 -k --output-sync=target test-mount test-cloud || failed=1; \
	exit $$failed; } 2>&1 | scripts/count.sh

# These wait more than they work, and are run beside each other.
test-mount:
	failed=0; \
	$(GO) test -count=1 -timeout 40m -parallel 4 -v ./test/e2e || failed=1; \
	$(GO) test -race -count=1 -timeout 40m -parallel 4 -v -run '$(RACY)' ./test/e2e || failed=1; \
	exit $$failed

test-cloud:
	$(GO) test -count=1 -timeout 40m -parallel 4 -v ./test/openstack

test-full: test ## the tests, those of the mount three times more with more kills and load, a soak of SOAK (30m), then long fuzzing (four hours)
	CHROMOGENIC_FULL=1 $(GO) test -race -count=3 -timeout 9h $(SHARED) ./test/e2e
	CHROMOGENIC_FULL=1 $(GO) test -count=1 -timeout 2h ./cleaner/... ./test/guest
	CHROMOGENIC_FULL=1 $(GO) test -count=1 -timeout 30m ./providers/internal/ec2test ./providers/eucalyptus
	$(GO) test -race -count=1 -timeout 1h $(filter-out %/cleaner/guest,$(PURE))
	CHROMOGENIC_FULL=1 $(GO) test -count=1 -timeout 2h -parallel 6 -v ./test/openstack
	CHROMOGENIC_SOAK=$(SOAK) $(GO) test -count=1 -timeout 3h -run '^TestSoak$$' -v ./test/e2e
	$(MAKE) fuzz

bench: ## benchmarks at 0, 50 and 100 % utilisation, and side by side with qemu-img, cp, curl, openstack and virt-sysprep
	@scripts/deps.sh bench
	$(GO) test -run '^$$' -bench . -benchtime $(BENCHTIME) ./disk/... ./formats/... ./providers/internal/bundle ./pipeline ./fs . ./test/e2e
	CHROMOGENIC_BENCH=1 $(GO) test -p 1 -count=1 -timeout 90m -run '^TestBench' -v . ./providers/internal/bundle ./test/e2e ./test/guest ./test/openstack | grep -v '^=== '

lint: ## golangci-lint with the floors of .golangci.yml, and gofumpt
	$(LINT) run ./...

fuzz: ## every fuzz target for FUZZTIME (5m) in 256 MiB
	@FUZZTIME=$(FUZZTIME) GO=$(GO) scripts/fuzz.sh

clean: ## remove what was built
	rm -rf bin $(WORKER)
