divert(-1)
dnl
dnl FEATURE(`murder_route') asks murder-route(8) for the backend of each recipient in the domains of
dnl MURDER_DOMAIN, and delivers the message to that backend of the Cyrus IMAP Murder by the mailer murderlmtp.
dnl Unknown recipients are refused at RCPT, recipients in doubt are deferred.
dnl
dnl   FEATURE(`murder_route', `[socket]', `[fallback]')
dnl   MURDER_DOMAIN(`example.org example.net')
dnl   MURDER_DOMAIN_FILE(`/etc/mail/murder-domains')
dnl   MURDER_BACKEND(`be1.example.org')      one line per backend; see murderlmtp.m4
dnl   MAILER(`murderlmtp')
dnl
dnl socket    Socket of the daemon. Default: unix:/run/murder-route. Sendmail sends the name of the K line
dnl           as the name of the map, so the daemon answers as its map `sendmail'.
dnl fallback  Mailer and host, as in a mailertable, for messages that murder-route leaves to others.
dnl           Default: none, they are deferred.
dnl
divert(0)
VERSIONID(`murder_route.m4')
divert(-1)

define(`_MURDER_ROUTE_', `1')
define(`_MURDER_SOCKET_', ifelse(len(X`'_ARG_), `1', `unix:/run/murder-route', _ARG_))
define(`_MURDER_FALLBACK_', _ARG2_)
_DEFIFNOT(`MURDERLMTP_PORT', `2003')
define(`_MURDER_BACKENDS_', `0')
define(`MURDER_BACKEND', `define(`_MURDER_BACKENDS_', incr(_MURDER_BACKENDS_))dnl
define(`_MURDER_BACKEND_'_MURDER_BACKENDS_, `$1')')
define(`MURDER_DOMAIN', `PUSHDIVERT(5)C{MurderDomain}$1
POPDIVERT`'dnl`'')
define(`MURDER_DOMAIN_FILE', `PUSHDIVERT(5)F{MurderDomain}$1
POPDIVERT`'dnl`'')

LOCAL_CONFIG
# -f and -q keep case and quotes, which matter to the backends. -T appends <TMPF> to the key when there
# is no answer; the daemon answers within five seconds.
Ksendmail socket -f -q -d10 -T<TMPF> _MURDER_SOCKET_
# For this map the daemon also asks the MUPDATE master for the present backend.
Ksendmail_now socket -f -q -d10 -T<TMPF> _MURDER_SOCKET_

LOCAL_RULE_3
# Routing must not depend on DNS: with the dot, Sendmail considers the domain canonical and does not look it
# up. Otherwise messages bounce on NXDOMAIN, and all recipients are accepted on SERVFAIL.
R$* < @ $={MurderDomain} > $*	$: $1 < @ $2 . > $3

LOCAL_RULE_0
# Senders pass these rules as well, and a sender needs no mailbox.
R$*				$: $&{addr_type} $| $1
R$* s $| $*			$: $2
R$* $| $+ < @ $={MurderDomain} . >	$: <?> < $(sendmail $2 @ $3 $: <NF> $) > $2 < @ $3 . >
R$* $| $*			$: $2
R<?> < $* <TMPF> > $*		$#error $@ 4.3.0 $: "451 4.3.0 Temporary lookup failure"
R<?> < error : $- . $- . $- : $+ > $*	$#error $@ $1.$2.$3 $: $4
R<?> < lmtp : $+ > $*		$: $>MurderBackend <?> < lmtp : $1 > $2
# Brackets suppress the look-up of MX records; an IPv6 address is tagged inside them.
R<?> < lmtp : [ $+ ] : MURDERLMTP_PORT ! $+ @ $+ > $*	$#murderlmtp $@ [ IPv6 : $1 ] $: $2 < @ $3 . >
R<?> < lmtp : $+ : MURDERLMTP_PORT ! $+ @ $+ > $*	$#murderlmtp $@ [ $1 ] $: $2 < @ $3 . >
R<?> < lmtp : $+ > $*		$#error $@ 4.3.5 $: "451 4.3.5 The backend is not at the port of the mailer murderlmtp"
R<?> < <NF> > $*		ifelse(len(X`'_MURDER_FALLBACK_), `1',
`$#error $@ 4.3.5 $: "451 4.3.5 murder-route does not answer for this domain"',
`$: $>MailerToTriple < _MURDER_FALLBACK_ > $1')
R<?> < $* > $*			$#error $@ 4.3.0 $: "451 4.3.0 Temporary lookup failure"

LOCAL_RULESETS
# Sendmail calls this right before each RCPT that it sends, with or without TLS. The mailbox may have moved
# since rule set 0 ran, and its old backend would refuse the message for good.
define(`_LOCAL_TLS_RCPT_')dnl
SLocal_tls_rcpt
R$*				$: $>CanonAddr $1
R$+ < @ $={MurderDomain} $* >	$: <?> < $(sendmail_now $1 @ $2 $: <NF> $) >
R<?> < lmtp : [ $+ ] : $+ >	$: <?> < lmtp : IPv6 : $1 : $2 >
R<?> < lmtp : $+ : MURDERLMTP_PORT ! $+ >	$: <?> < [ $1 ] >
R<?> < $&h >			$@ OK
R<?> < <NF> >			$: <?> < <NF> > < _MURDER_FALLBACK_ >
R<?> < <NF> > < $+ : $&h >	$@ OK
R<?> < [ $+ ] >			$#error $@ 4.4.5 $: "451 4.4.5 The mailbox has moved to another backend"
R<?> $*				$#error $@ 4.3.0 $: "451 4.3.0 The mailbox cannot be found at the moment"
divert(-1)
