# Two commands set everything up on Debian 12 with Go: make demo, make test.
# Downloads are kept in $NVH_CACHE (default ~/.cache/nvh), outside the clone; build results in bin/ and build/.

GO ?= go
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
TEST_TIMEOUT ?= 60m
TEST_FLAGS ?=

.PHONY: all build deps guest-image test demo bench soak lint docs clean

all: build

# Every program in cmd/, static, into bin/.
build:
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/ ./cmd/...

# What is missing on this machine: Debian packages, the test guest, the second QEMU. Quick when nothing is.
deps:
	@scripts/deps.sh

# Paths of the test guest, as NAME='value' lines that a shell can evaluate.
guest-image:
	@$(GO) run ./lab/cmd/lab-fetch guest

test: deps build lint
	$(GO) test -timeout $(TEST_TIMEOUT) $(TEST_FLAGS) ./...

demo: deps build guest-image
	$(GO) run ./lab/cmd/demo

bench: deps build guest-image
	$(GO) run ./bench

soak: deps build guest-image
	$(GO) run ./bench -soak

lint:
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "run gofmt -w on: $$unformatted" >&2; exit 1; fi
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

# Generated documents: the command reference among them.
docs:
	$(GO) run ./cmd/nvh gen docs docs/cli

# Leaves the cache: remove ~/.cache/nvh by hand to download again.
clean:
	rm -rf bin build
