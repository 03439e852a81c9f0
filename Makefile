# make                Builds the program and the shared library.
# make check          Runs all tests that need neither root nor the network.
# make soak           Runs a million simulated schedules, or SOAK=<count>[,<first seed>].
# make check-real     Runs tests with real Cyrus Murders of four releases, Postfix, Sendmail, Exim and systemd
#                     in private roots (needs root).
# make bench          Measures against Cyrus, Postfix and a bare echo server (needs root and cc).
# make lib            Builds the shared library for C in target/lib.
# make bindings       Generates src/capi/bindings.rs from c-api/murder_route.h (needs libclang).
# make check-bindings Compares the generated bindings with the committed file.
# make check-abi      BASE=<an older libmurder_route.so.0>: checks that programs built for that library run with
#                     this one (needs abidiff). make abi-lib builds a library to compare, in target/abi.
# make doc            Checks the documentation of all items, then builds that of the public ones.
# make install        Installs the results of make below $(DESTDIR)$(prefix).
# make install-lib    Installs only the shared library and its files.
# make install-daemon Installs only the rest. install-lib and install-daemon have no file in common.
#
# Builds go below CARGO_TARGET_DIR instead of target, if that is set.

CARGO ?= cargo
prefix ?= /usr/local
sbindir ?= $(prefix)/sbin
libdir ?= $(prefix)/lib
includedir ?= $(prefix)/include
mandir ?= $(prefix)/share/man
docdir ?= $(prefix)/share/doc/murder-route
# systemd reads both directories, whatever its own prefix: /usr/lib for packages, /usr/local/lib for local builds.
unitdir ?= $(prefix)/lib/systemd/system
# Set it to register the table type with Postfix, see murder_table(5).
dynamicmapsdir ?=
INSTALL ?= install

.PHONY: all abi-lib bench bindings check check-abi check-bindings check-real doc install install-daemon \
    install-lib lib soak

all: lib
	$(CARGO) build --release --locked

# Cargo's rule: relative to its working directory, unless the path is absolute.
TARGET = $(or $(CARGO_TARGET_DIR),target)

# `sudo make install` does not rebuild it, since root may have no cargo.
PROGRAM = $(TARGET)/release/murder-route
$(PROGRAM):
	$(CARGO) build --release --locked

# Runs tests, and lists at the end the tests that this machine or this user cannot run.
define tested
	@left_out=$$(mktemp) && \
	{ echo '$(1)'; MURDER_ROUTE_LEFT_OUT=$$left_out $(1); status=$$?; \
	  if [ -s $$left_out ]; then echo "Left out:"; sort -u $$left_out | sed 's/^/    /'; \
	  else echo "Left out: nothing"; fi; \
	  rm -f $$left_out; exit $$status; }
endef

check:
	$(call tested,$(CARGO) test --locked --features capi)

SOAK ?= 1000000
soak:
	MURDER_ROUTE_SIMULATION=$(SOAK) $(CARGO) test --release --locked --test simulation -- --nocapture

# Debian's packages are unpacked once, below MURDER_ROUTE_CACHE (default /var/cache/murder-route).
check-real:
	$(call tested,env MURDER_ROUTE_REAL=1 $(CARGO) test --locked --test real)

# Runs in a root of check-real, for some fifteen minutes. PARTS selects from: lookups socketmap protocols
# daemon postfix replica library delivery.
bench:
	MURDER_ROUTE_REAL=1 $(CARGO) bench --locked --bench peers -- $(PARTS)

# The library is built without the daemon: the daemon's code and dependencies stay out of a mail server's process.
# build.rs sets the SONAME, by MR_ABI in the header, and the link flags.
LIBRARY = libmurder_route.so
LIBRARY_ABI := $(shell sed -n 's/^.define MR_ABI //p' c-api/murder_route.h)
LIBRARY_FEATURES ?= capi
LIBRARY_TARGET ?= $(TARGET)/lib
LIBRARY_BUILD ?= $(TARGET)
# Additional arguments for rustc. The library runs with the C library that it was linked against and with later
# ones, so an older one may be named here.
LIBRARY_LINK ?=

lib:
	$(CARGO) rustc --locked --lib --crate-type cdylib --profile library --target-dir $(LIBRARY_BUILD) \
	    --no-default-features --features $(LIBRARY_FEATURES) -- $(LIBRARY_LINK)
	$(INSTALL) -d $(LIBRARY_TARGET)
	$(INSTALL) -m 755 $(LIBRARY_BUILD)/library/$(LIBRARY) $(LIBRARY_TARGET)/$(LIBRARY).$(LIBRARY_ABI)
	ln -sf $(LIBRARY).$(LIBRARY_ABI) $(LIBRARY_TARGET)/$(LIBRARY)

$(LIBRARY_TARGET)/$(LIBRARY).$(LIBRARY_ABI):
	$(MAKE) lib

# A path that is not absolute begins at the top of the sources, where build.rs runs.
BINDINGS ?= src/capi/bindings.rs
bindings:
	MURDER_ROUTE_BINDINGS=$(BINDINGS) $(CARGO) check -q --locked --lib --no-default-features \
	    --features capi,bindgen --target-dir $(TARGET)/bindgen

check-bindings:
	mkdir -p $(TARGET)
	$(MAKE) bindings BINDINGS=$(TARGET)/bindings.rs
	cmp $(TARGET)/bindings.rs src/capi/bindings.rs

# With debug information, which describes the types: without it abidiff sees functions only.
abi-lib:
	CARGO_PROFILE_LIBRARY_DEBUG=2 CARGO_PROFILE_LIBRARY_STRIP=none $(MAKE) lib \
	    LIBRARY_BUILD=$(TARGET)/abi/build LIBRARY_TARGET=$(TARGET)/abi

# abidiff exits with 4 if anything differs, and sets more bits for worse differences.
BASE ?=
ABIDIFF ?= abidiff
ABI_REPORT = $(TARGET)/abi/report
check-abi:
	@command -v $(ABIDIFF) >/dev/null || \
	    { echo "check-abi: $(ABIDIFF): not found; install Debian's abigail-tools" >&2; exit 1; }
	@readelf -S "$(BASE)" 2>/dev/null | grep -q '[.]debug_info' || { echo "check-abi: BASE must name a" \
	    "libmurder_route.so.0 with debug information, as built by make abi-lib" >&2; exit 1; }
	$(MAKE) abi-lib
	$(ABIDIFF) --no-added-syms $(BASE) $(TARGET)/abi/$(LIBRARY).$(LIBRARY_ABI) >$(ABI_REPORT) || \
	    { status=$$?; cat $(ABI_REPORT); [ $$status = 4 ] && awk -f c-api/grown.awk $(ABI_REPORT); }
	@echo "check-abi: programs that run with $(BASE) run with this library"

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --features capi --document-private-items
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --features capi

VERSION = $(shell sed -n '/^version/{s/.*"\(.*\)"/\1/p;q}' Cargo.toml)

# Manual pages of the library; all others belong to the daemon.
LIBRARY_PAGES = man/murder_route.3 man/murder_table.5 man/murder_route_exim.5

# A directory in the .pc file, relative to its prefix, so that pkg-config can relocate it.
within = $(patsubst $(prefix)/%,$${prefix}/%,$(1))

# Run ldconfig afterwards, unless a package manager does.
install-lib: $(LIBRARY_TARGET)/$(LIBRARY).$(LIBRARY_ABI)
	$(INSTALL) -d $(DESTDIR)$(libdir)/pkgconfig $(DESTDIR)$(includedir) $(DESTDIR)$(docdir)
	$(INSTALL) -m 755 $< $(DESTDIR)$(libdir)/$(LIBRARY).$(VERSION)
	ln -sf $(LIBRARY).$(VERSION) $(DESTDIR)$(libdir)/$(LIBRARY).$(LIBRARY_ABI)
	ln -sf $(LIBRARY).$(LIBRARY_ABI) $(DESTDIR)$(libdir)/$(LIBRARY)
	$(INSTALL) -m 644 c-api/murder_route.h $(DESTDIR)$(includedir)/
	sed -e 's|@prefix@|$(prefix)|; s|@libdir@|$(call within,$(libdir))|' \
	    -e 's|@includedir@|$(call within,$(includedir))|; s|@version@|$(VERSION)|' \
	    c-api/murder_route.pc.in > $(DESTDIR)$(libdir)/pkgconfig/murder_route.pc
	for page in $(LIBRARY_PAGES); do \
	    section=$(DESTDIR)$(mandir)/man$${page##*.}; \
	    $(INSTALL) -d $$section && $(INSTALL) -m 644 $$page $$section/ && \
	    sed -e 's|/usr/lib/libmurder|$(libdir)/libmurder|' \
	        -e 's|/usr/share/doc/murder-route|$(docdir)|' $$page > $$section/$${page##*/} || exit; \
	done
	sed 's|/usr/lib/|$(libdir)/|' packaging/postfix/dynamicmaps.cf > $(DESTDIR)$(docdir)/dynamicmaps.cf
ifneq ($(dynamicmapsdir),)
	$(INSTALL) -d $(DESTDIR)$(dynamicmapsdir)
	$(INSTALL) -m 644 $(DESTDIR)$(docdir)/dynamicmaps.cf $(DESTDIR)$(dynamicmapsdir)/murder-route
endif
	$(INSTALL) -d $(DESTDIR)$(docdir)/examples
	$(INSTALL) -m 644 c-api/examples/* $(DESTDIR)$(docdir)/examples/

install: install-daemon install-lib

install-daemon: $(PROGRAM)
	$(INSTALL) -d $(DESTDIR)$(sbindir) $(DESTDIR)$(docdir) $(DESTDIR)$(unitdir)
	$(INSTALL) -m 755 $(PROGRAM) $(DESTDIR)$(sbindir)/murder-route
	for page in $(filter-out $(LIBRARY_PAGES),$(wildcard man/*.[1-9])); do \
	    section=$(DESTDIR)$(mandir)/man$${page##*.}; \
	    $(INSTALL) -d $$section && $(INSTALL) -m 644 $$page $$section/ || exit; \
	done
	$(INSTALL) -m 644 packaging/systemd/murder-route.socket $(DESTDIR)$(unitdir)/
	sed 's|/usr/sbin/|$(sbindir)/|' packaging/systemd/murder-route.service \
	    > $(DESTDIR)$(unitdir)/murder-route.service
	$(INSTALL) -m 644 README.md CHANGELOG.md LICENSE-APACHE LICENSE-MIT \
	    packaging/etc/murder-route.toml $(DESTDIR)$(docdir)/
	for section in exim/conf.d/*; do \
	    pieces=$(DESTDIR)$(docdir)/$$section; \
	    $(INSTALL) -d $$pieces && $(INSTALL) -m 644 $$section/* $$pieces/ || exit; \
	done
	sed 's|/usr/local/sbin/|$(sbindir)/|' exim/conf.d/main/00_murder-route \
	    > $(DESTDIR)$(docdir)/exim/conf.d/main/00_murder-route
	sed 's|/usr/local/share/doc/murder-route|$(docdir)|' exim/README.md \
	    > $(DESTDIR)$(docdir)/exim/README.md
	$(INSTALL) -m 644 exim/socket.conf $(DESTDIR)$(docdir)/exim/
	$(INSTALL) -d $(DESTDIR)$(docdir)/postfix
	$(INSTALL) -m 644 postfix/* $(DESTDIR)$(docdir)/postfix/
	sed 's|/usr/local/share/doc/murder-route|$(docdir)|' postfix/README.md \
	    > $(DESTDIR)$(docdir)/postfix/README.md
	$(INSTALL) -d $(DESTDIR)$(docdir)/sendmail
	$(INSTALL) -m 644 sendmail/README.md sendmail/example.mc sendmail/murder_route.m4 \
	    $(DESTDIR)$(docdir)/sendmail/
	sed 's|/usr/local/sbin/|$(sbindir)/|' sendmail/murderlmtp.m4 \
	    > $(DESTDIR)$(docdir)/sendmail/murderlmtp.m4
