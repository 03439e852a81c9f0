PUSHDIVERT(-1)
dnl
dnl MAILER(`murderlmtp') delivers to the backends of a Cyrus IMAP Murder by LMTP. Rule set 0 chooses it:
dnl FEATURE(`murder_route').
dnl
dnl For each MURDER_BACKEND there is a mailer of its own, murderlmtp1 and so on, that runs
dnl `murder-route lmtp', which carries the conversation and makes a 550 5.1.1 temporary: a mailbox may
dnl move while a letter is delivered. One mailer for all of them is not to be had: Sendmail takes all
dnl recipients of a mailer that runs a program for those of one host, and uses its connection for them.
dnl Any other backend is reached by TCP.
dnl
dnl MURDERLMTP_PORT      the port of every backend, default 2003; to be said before the feature
dnl MURDERLMTP_PATH      the program
dnl MURDERLMTP_FLAGS     more flags
dnl MURDERLMTP_MAXMSGS   letters in one connection
dnl MURDERLMTP_MAXRCPTS  recipients of one letter at a time
dnl MURDERLMTP_QGRP      the queue group
dnl
dnl z LMTP, m several recipients at a time, l it is the last hop, u the local part keeps its case; the
dnl rest as for SMTP. Not s, which would take the quotes off a local part; not A, w, | or :, for the
dnl recipients have neither aliases nor files here; 0, for a backend has no MX records.
dnl
ifdef(`_MURDER_ROUTE_', `',
`errprint(`*** ERROR: FEATURE(`murder_route') has to come before MAILER(`murderlmtp')
')m4exit(`1')')
_DEFIFNOT(`_DEF_MURDERLMTP_FLAGS', `lmzuDFMX0')
_DEFIFNOT(`MURDERLMTP_FLAGS', `')
_DEFIFNOT(`MURDERLMTP_PATH', `/usr/local/sbin/murder-route')
define(`_MURDERLMTP_QGRP', `ifelse(defn(`MURDERLMTP_QGRP'), `', `', ` Q=MURDERLMTP_QGRP,')')dnl
dnl number, path, arguments
define(`_MURDERLMTP_', `
Mmurderlmtp$1,	P=$2, F=_MODMF_(CONCAT(_DEF_MURDERLMTP_FLAGS, MURDERLMTP_FLAGS), `MURDERLMTP'),
		S=EnvFromSMTP/HdrFromSMTP, R=EnvToSMTP/HdrFromSMTP, E=\r\n,
		_OPTINS(`MURDERLMTP_MAXMSGS', `m=', `, ')_OPTINS(`MURDERLMTP_MAXRCPTS', `r=', `, ')T=DNS/RFC822/SMTP,_MURDERLMTP_QGRP
		A=$3
')
define(`_MURDERLMTP_NTH_', `_MURDERLMTP_(`$1', `MURDERLMTP_PATH', `murder-route lmtp defn(`_MURDER_BACKEND_$1'):MURDERLMTP_PORT')')
define(`_MURDER_RULE_NTH_', `dnl
R<?> < lmtp : defn(`_MURDER_BACKEND_$1') : MURDERLMTP_PORT ! DOL(+) @ DOL(+) > DOL(*)	DOL(`#')murderlmtp$1 DOL(@) [ defn(`_MURDER_BACKEND_$1') ] DOL(:) DOL(1) < @ DOL(2) . >
')
define(`_MURDER_EACH_', `ifelse(eval($2 > _MURDER_BACKENDS_), `1', `', `$1($2)`'_MURDER_EACH_(`$1', incr($2))')')
POPDIVERT

##############################################
###   murderlmtp: backends of the Murder   ###
##############################################

VERSIONID(`murderlmtp.m4')
_MURDERLMTP_(`', `[IPC]', `TCP DOL(h) MURDERLMTP_PORT')dnl
_MURDER_EACH_(`_MURDERLMTP_NTH_', `1')dnl
PUSHDIVERT(9)
SMurderBackend
_MURDER_EACH_(`_MURDER_RULE_NTH_', `1')dnl
POPDIVERT
