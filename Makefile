# make                build the program and the shared library
# make check          all tests that need neither root nor the network
# make soak           a million simulated schedules, or SOAK=<count>[,<first seed>]
# make check-real     real Cyrus murders of four releases, and Postfix, Sendmail, Exim and systemd, in
#                     private roots (wants root)
# make bench          figures against Cyrus, Postfix and a bare echo server (wants root and cc)
# make lib            the shared library for C, in target/lib
# make bindings       src/capi/bindings.rs from c-api/murder_route.h (wants libclang)
# make check-bindings whether that is what is there
# make check-abi      BASE=<an older libmurder_route.so.0>: whether programs for that run with this one
#                     (wants abidiff); make abi-lib makes what can be compared, in target/abi
#                     What is built goes below CARGO_TARGET_DIR instead of target, if that is set.
# make doc            checks the documentation of all items, then writes that of the public ones
# make install        what make has built, below $(DESTDIR)$(prefix)
# make install-lib    of that only the shared library and what goes with it
# make install-daemon and of that only the rest; the two have no file in common

CARGO ?= cargo
prefix ?= /usr/local
sbindir ?= $(prefix)/sbin
libdir ?= $(prefix)/lib
includedir ?= $(prefix)/include
mandir ?= $(prefix)/share/man
docdir ?= $(prefix)/share/doc/murder-route
# systemd looks here whatever the prefix of its programs: /usr/lib for a package, and
# /usr/local/lib for what an administrator builds.
unitdir ?= $(prefix)/lib/systemd/system
# Set it to have Postfix know the table, see murder_table(5).
dynamicmapsdir ?=
INSTALL ?= install

.PHONY: all abi-lib bench bindings check check-abi check-bindings check-real doc install install-daemon \
    install-lib lib soak

all: lib
	$(CARGO) build --release --locked

# Cargo's own rule: below the directory in which it runs, unless the path is absolute.
TARGET = $(or $(CARGO_TARGET_DIR),target)

# Not built anew by `sudo make install`, whose root may have no cargo.
PROGRAM = $(TARGET)/release/murder-route
$(PROGRAM):
	$(CARGO) build --release --locked

# Runs tests, and lists at the end those that this machine or this user could not run.
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

# Debian's packages are unpacked below MURDER_ROUTE_CACHE (default /var/cache/murder-route), once.
check-real:
	$(call tested,env MURDER_ROUTE_REAL=1 $(CARGO) test --locked --test real)

# In a root of check-real; fifteen minutes or so. PARTS chooses among: lookups socketmap protocols
# daemon postfix replica library delivery.
bench:
	MURDER_ROUTE_REAL=1 $(CARGO) bench --locked --bench peers -- $(PARTS)

# Without the daemon: neither its code nor what that needs comes near a mail server's process. Once
# loaded it stays: LIBRARY_FLAGS has the linker say so, since threads may still hold what is of it.
LIBRARY = libmurder_route.so
LIBRARY_ABI = 0
LIBRARY_FEATURES ?= capi
LIBRARY_FLAGS = -C link-arg=-Wl,-soname,$(LIBRARY).$(LIBRARY_ABI),-z,nodelete,-z,relro,-z,now
LIBRARY_TARGET ?= $(TARGET)/lib
LIBRARY_BUILD ?= $(TARGET)
# More for rustc. The library runs with the C library that it is linked against and with later ones, so
# that an older one may be named here.
LIBRARY_LINK ?=

lib:
	$(CARGO) rustc --locked --lib --crate-type cdylib --profile library --target-dir $(LIBRARY_BUILD) \
	    --no-default-features --features $(LIBRARY_FEATURES) -- $(LIBRARY_FLAGS) $(LIBRARY_LINK)
	$(INSTALL) -d $(LIBRARY_TARGET)
	$(INSTALL) -m 755 $(LIBRARY_BUILD)/library/$(LIBRARY) $(LIBRARY_TARGET)/$(LIBRARY).$(LIBRARY_ABI)
	ln -sf $(LIBRARY).$(LIBRARY_ABI) $(LIBRARY_TARGET)/$(LIBRARY)

$(LIBRARY_TARGET)/$(LIBRARY).$(LIBRARY_ABI):
	$(MAKE) lib

BINDINGS ?= src/capi/bindings.rs
bindings:
	$(CARGO) run -q --locked --manifest-path c-api/bindgen/Cargo.toml \
	    --target-dir $(TARGET)/bindgen -- c-api/murder_route.h $(BINDINGS)

check-bindings:
	$(MAKE) bindings BINDINGS=$(TARGET)/bindings.rs
	cmp $(TARGET)/bindings.rs src/capi/bindings.rs

# With the types in it, by its debug information: without, abidiff sees functions only.
abi-lib:
	CARGO_PROFILE_LIBRARY_DEBUG=2 CARGO_PROFILE_LIBRARY_STRIP=none $(MAKE) lib \
	    LIBRARY_BUILD=$(TARGET)/abi/build LIBRARY_TARGET=$(TARGET)/abi

# abidiff's exit status is 4 for any difference, and for worse ones more.
BASE ?=
ABIDIFF ?= abidiff
ABI_REPORT = $(TARGET)/abi/report
check-abi:
	@command -v $(ABIDIFF) >/dev/null || \
	    { echo "check-abi: there is no $(ABIDIFF): install Debian's abigail-tools" >&2; exit 1; }
	@readelf -S "$(BASE)" 2>/dev/null | grep -q '[.]debug_info' || { echo "check-abi: name in BASE a" \
	    "libmurder_route.so.0 with debug information, as make abi-lib makes it" >&2; exit 1; }
	$(MAKE) abi-lib
	$(ABIDIFF) --no-added-syms $(BASE) $(TARGET)/abi/$(LIBRARY).$(LIBRARY_ABI) >$(ABI_REPORT) || \
	    { status=$$?; cat $(ABI_REPORT); [ $$status = 4 ] && awk -f c-api/grown.awk $(ABI_REPORT); }
	@echo "check-abi: what runs with $(BASE) runs with this one"

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --features capi --document-private-items
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --features capi

VERSION = $(shell sed -n '/^version/{s/.*"\(.*\)"/\1/p;q}' Cargo.toml)

# The manuals of the library; all others are the daemon's.
LIBRARY_PAGES = man/murder_route.3 man/murder_table.5 man/murder_route_exim.5

# A directory for the .pc file, in terms of its prefix, so that pkg-config can move the whole.
within = $(patsubst $(prefix)/%,$${prefix}/%,$(1))

# Afterwards, where that is not a package's care: ldconfig.
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
