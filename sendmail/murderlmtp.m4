PUSHDIVERT(-1)
dnl
dnl MAILER(`murderlmtp') delivers to the backends of a Cyrus IMAP Murder by LMTP. Rule set 0 selects it:
dnl FEATURE(`murder_route').
dnl
dnl Each MURDER_BACKEND has its own mailer, murderlmtp1 and so on, which runs `murder-route lmtp'. That
dnl program carries the LMTP session and makes a 550 5.1.1 temporary: a mailbox may move while a message is
dnl delivered. One mailer for all backends is not possible: Sendmail assumes that all recipients of a mailer
dnl that runs a program are on one host, and reuses its connection for them. Other backends are reached by TCP.
dnl
dnl MURDERLMTP_PORT      Port of every backend. Default: 2003. Define it before the feature.
dnl MURDERLMTP_PATH      Path of murder-route. Default: /usr/local/sbin/murder-route.
dnl MURDERLMTP_FLAGS     Additional mailer flags.
dnl MURDERLMTP_MAXMSGS   Maximum number of messages per connection.
dnl MURDERLMTP_MAXRCPTS  Maximum number of recipients per transaction.
dnl MURDERLMTP_QGRP      Queue group.
dnl
dnl Flags: z LMTP, m several recipients at a time, l last hop, u keeps the case of the local part; the
dnl rest as for SMTP. Not s, which removes the quotes of a local part. Not A, w, | or :, since the
dnl recipients have neither aliases nor files here. 0, since a backend has no MX records.
dnl
ifdef(`_MURDER_ROUTE_', `',
`errprint(`*** ERROR: FEATURE(`murder_route') must precede MAILER(`murderlmtp')
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
