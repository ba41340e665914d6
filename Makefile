# Two commands set everything up on Debian 12 with Go: make demo, make test.
# Downloads are kept in $NVH_CACHE (default ~/.cache/nvh), outside the clone; build results in bin/ and build/.

GO ?= go
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
TEST_TIMEOUT ?= 60m
TEST_FLAGS ?=

.PHONY: all build deps guest-image test demo bench soak lab-test lab-cuts lab-latency lint docs install libnvram install-libnvram clean

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

# Whole emulated hosts: every kernel, QEMU and kind of NVDIMM, and outages that go wrong.
lab-test: deps build
	$(GO) test -tags lab -timeout 3h -v -skip '^Test(Cuts|Latency)$$' $(TEST_FLAGS) ./lab/scenario

# The plug at the worst moment: CUTS power cuts of an emulated host, and what became of its guests by instant.
# In pieces: LAB_FLAGS='-seed 2 -append cuts.jsonl' adds to a file and judges all that is in it.
CUTS ?= 200
LAB_FLAGS ?=
lab-cuts: deps build
	$(GO) test -tags lab -timeout 12h -v -run '^TestCuts$$' $(TEST_FLAGS) ./lab/scenario -args -cuts $(CUTS) $(LAB_FLAGS)

# From the detector's interrupt to the last commit, in an emulated host and on this machine. LAB_FLAGS='-latency-json FILE' keeps the samples.
lab-latency: deps build
	$(GO) test -tags lab -timeout 1h -v -run '^TestLatency$$' $(TEST_FLAGS) ./lab/scenario -args $(LAB_FLAGS)

demo: deps build guest-image
	$(GO) run ./lab/cmd/demo

bench: deps build guest-image
	$(GO) run ./bench

soak: deps build guest-image
	$(GO) run ./bench -soak

lint:
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "run gofmt -w on: $$unformatted" >&2; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -tags lab ./lab/...
	$(GO) run $(STATICCHECK) ./...

# Generated documents: the command reference among them.
docs:
	$(GO) run ./cmd/nvh gen docs docs/cli
	$(GO) run ./cmd/nvh gen man docs/man

# The C library with its header, pkg-config file and man pages, ready to be linked against in build/libnvram.
LIBNVRAM_VERSION = 0.1.0
LIBNVRAM_BUILD ?= build/libnvram
# asyncpreemptoff: the library gives SIGURG, by which the Go runtime would preempt, back to the program (libnvram/process.c).
LIBNVRAM_LDFLAGS = -s -w -X=runtime.godebugDefault=asyncpreemptoff=1 \
	-extldflags "-Wl,-soname,libnvram.so.0 -Wl,--version-script=$(CURDIR)/libnvram/libnvram.map"

libnvram:
	CGO_ENABLED=1 $(GO) build -trimpath -buildmode=c-shared -ldflags '$(LIBNVRAM_LDFLAGS)' -o $(LIBNVRAM_BUILD)/lib/libnvram.so.0 ./libnvram
	rm $(LIBNVRAM_BUILD)/lib/libnvram.so.h
	ln -sf libnvram.so.0 $(LIBNVRAM_BUILD)/lib/libnvram.so
	install -D -m 644 -t $(LIBNVRAM_BUILD)/include libnvram/nvram.h
	install -D -m 644 -t $(LIBNVRAM_BUILD)/share/man/man3 libnvram/man/*.3
	$(call libnvram-pc,$(LIBNVRAM_BUILD)/lib,$(abspath $(LIBNVRAM_BUILD)),$(abspath $(LIBNVRAM_BUILD))/lib,$(abspath $(LIBNVRAM_BUILD))/include)

# Of its variables DESTDIR is put before the others and is not written into any file.
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
MANDIR ?= $(PREFIX)/share/man

# The programs, their manual, completions and the unit of the service. Nothing is started or enabled.
install: build
	install -D -m 755 -t $(DESTDIR)$(PREFIX)/bin bin/nvh
	install -D -m 755 -t $(DESTDIR)$(PREFIX)/sbin bin/nvhd
	install -D -m 644 -t $(DESTDIR)$(MANDIR)/man1 docs/man/*.1
	install -D -m 644 -t $(DESTDIR)$(MANDIR)/man5 docs/man/*.5
	install -D -m 644 -t $(DESTDIR)$(MANDIR)/man8 docs/man/*.8
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/nvh packaging/nvhd.toml
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	sed 's|/usr/sbin/nvhd|$(PREFIX)/sbin/nvhd|' packaging/nvhd.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/nvhd.service
	bin/nvh completion bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/nvh

install-libnvram: libnvram
	install -D -m 755 -t $(DESTDIR)$(LIBDIR) $(LIBNVRAM_BUILD)/lib/libnvram.so.0
	ln -sf libnvram.so.0 $(DESTDIR)$(LIBDIR)/libnvram.so
	install -D -m 644 -t $(DESTDIR)$(INCLUDEDIR) libnvram/nvram.h
	install -D -m 644 -t $(DESTDIR)$(MANDIR)/man3 libnvram/man/*.3
	$(call libnvram-pc,$(DESTDIR)$(LIBDIR),$(PREFIX),$(LIBDIR),$(INCLUDEDIR))

# Writes the pkg-config file: directory to write to, then prefix, libdir and includedir to write into it.
define libnvram-pc
mkdir -p $1/pkgconfig
sed -e 's|@PREFIX@|$2|' -e 's|@LIBDIR@|$3|' -e 's|@INCLUDEDIR@|$4|' -e 's|@VERSION@|$(LIBNVRAM_VERSION)|' libnvram/libnvram.pc.in >$1/pkgconfig/libnvram.pc
endef

# Leaves the cache: remove ~/.cache/nvh by hand to download again.
clean:
	rm -rf bin build
