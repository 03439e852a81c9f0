# make                build the program
# make check          all tests that need neither root nor the network
# make check-real     a real Cyrus murder and Postfix in a private root (wants root)
# make doc            the library's documentation
# make install        below $(DESTDIR)$(prefix)

CARGO ?= cargo
prefix ?= /usr/local
bindir ?= $(prefix)/bin
mandir ?= $(prefix)/share/man
docdir ?= $(prefix)/share/doc/murder-route
# systemd looks here whatever the prefix of its programs: /usr/lib for a package, and
# /usr/local/lib for what an administrator builds.
unitdir ?= $(prefix)/lib/systemd/system
INSTALL ?= install

.PHONY: all check check-real doc install

all:
	$(CARGO) build --release --locked

check:
	$(CARGO) test --locked

# Debian's packages are unpacked below MURDER_ROUTE_CACHE (default /var/cache/murder-route), once.
check-real:
	MURDER_ROUTE_REAL=1 $(CARGO) test --locked --test real

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps

install: all
	$(INSTALL) -d $(DESTDIR)$(bindir) $(DESTDIR)$(docdir)
	$(INSTALL) -m 755 target/release/murder-route $(DESTDIR)$(bindir)/murder-route
	for page in $(wildcard man/*.[1-9]); do \
	    section=$${page##*.}; \
	    $(INSTALL) -d $(DESTDIR)$(mandir)/man$$section; \
	    $(INSTALL) -m 644 $$page $(DESTDIR)$(mandir)/man$$section/; \
	done
	for unit in $(wildcard packaging/systemd/*.service packaging/systemd/*.socket); do \
	    $(INSTALL) -d $(DESTDIR)$(unitdir); \
	    $(INSTALL) -m 644 $$unit $(DESTDIR)$(unitdir)/; \
	done
	for file in $(wildcard README.md CHANGELOG.md LICENSE* murder-route.toml.example \
	        packaging/murder-route.toml docs/*.md); do \
	    $(INSTALL) -m 644 $$file $(DESTDIR)$(docdir)/; \
	done
