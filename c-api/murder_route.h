/*
 * murder_route.h - finds the backend of a recipient in a Cyrus IMAP Murder
 *
 * One call returns the backend that holds a recipient's mailbox, in microseconds and from local data:
 * Cyrus' own mailboxes.db, or the replica that the murder-route daemon keeps. See murder_route(3); link
 * with `pkg-config --cflags --libs murder_route`.
 *
 *     mr_router *router;
 *     mr_decision decision = MR_DECISION_INIT;
 *     char error[MR_ERROR_SIZE];
 *
 *     if (mr_open(NULL, &router, error, sizeof error) != MR_OK)
 *         die(error);
 *     mr_lookup(router, "jane@example.org", &decision);
 *     if (decision.outcome == MR_DELIVER && decision.host != NULL)
 *         printf("RCPT TO:<%s> at %s:%u\n", decision.recipient, decision.host,
 *                (unsigned)decision.port);
 *     mr_decision_clear(&decision);
 *     mr_close(router);
 *
 * THE PROMISE. A recipient that exists is never refused. MR_UNKNOWN is certain: in a Murder, the daemon
 * has had it confirmed. Every doubt is MR_DEFERRED: a torn file, a daemon that does not answer, a bug
 * of the library.
 *
 * INSIDE A MAIL SERVER the library starts no thread and installs no signal handler; it raises no SIGPIPE.
 * It changes no environment variable, locale, working directory or umask. It writes to no descriptor but
 * its own sockets, and to no file, logs nothing, and never calls exit or abort. Its descriptors are
 * close-on-exec.
 *
 * A LIST TRUNCATED IN PLACE. Cyrus never truncates data that it has committed. An administrator who
 * empties the list or copies another file over it does: rename a file into its place instead. The
 * library reads lists with pread(2), never through a memory map, so a file that is truncated while it
 * is read cannot raise SIGBUS in the process. A file that is shorter than its header says makes the
 * answer MR_DEFERRED.
 *
 * CHROOT AND PRIVILEGES. mr_open opens whatever a chroot or a change of user takes away. The
 * configuration is read then, and never again. The directory and the file of mailboxes.db and of the
 * replica are kept open, so a list that only root may read can still be read after the process has
 * dropped root. When Cyrus replaces the file (a repack), the library notices; from then on it asks the
 * daemon about every recipient. The daemon is reached by connecting to it, so one of its sockets must be
 * within the chroot, or be a TCP socket with a numeric address. A unix socket within the chroot may be
 * configured by its path as seen from outside.
 *
 * THREADS. Any number of threads may use a router at the same time; none blocks another for long. An
 * mr_decision, mr_reply or error buffer belongs to one thread at a time. No function may be called from a
 * signal handler.
 *
 * FORK. A child of fork(2) may use and close the routers of its parent, even if other threads of the
 * parent were in a look-up at that moment. It shares only descriptors for reading with the parent, and
 * opens its own connections and locks at its first look-up. A child of vfork(2) must not call any
 * function.
 *
 * POINTERS. Every pointer must point to an object of its type, or be NULL where that is allowed. Where it
 * is not allowed, NULL gives MR_ERR_INVALID. A router must not be used after mr_close. Input strings end
 * with NUL, are copied, and may have any bytes. Output strings end with NUL, have at most some 100,000
 * bytes and no control characters, and are UTF-8 unless stated otherwise.
 *
 * NUMBERS. Return codes are MR_OK, which is 0, and MR_ERR_..., which are negative. All other constants are
 * positive, and no two constants of this header have the same value: a comparison of a code with an
 * outcome, or of an outcome with a source, is never true. Every switch needs a default: a later library
 * may return a number that this header does not list.
 *
 * COMPATIBILITY. The SONAME changes when programs have to be rebuilt; MR_ABI counts these changes.
 * Within one MR_ABI, functions, constants, and members at the end of structs may be added. So every
 * struct begins with its size, which the program sets (the MR_..._INIT macros do). The library accepts
 * any size from that of release 0.1.0 on. It reads and writes the members that both sides know, and
 * touches nothing beyond them. A program built with any release of an MR_ABI runs with every later one. A
 * program built with a later release runs with an earlier one: members that the earlier one does not know
 * keep their value from MR_..._INIT, and an option that it does not know is MR_ERR_INVALID.
 *
 * UNLOADING. Once loaded, the library stays in memory, also after dlclose(3).
 */
#ifndef MURDER_ROUTE_H
#define MURDER_ROUTE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Number at the end of the SONAME. */
#define MR_ABI 0

/* The release of this header: major * 1000000 + minor * 1000 + patch. */
#define MR_VERSION_NUMBER 1000

/* ---------------------------------------------------------------------------------------------
 * Return codes
 */

/* A return code. */
typedef enum mr_code {
    /* Success. A look-up has made its decision, which may be MR_DEFERRED. */
    MR_OK = 0,
    /* An argument cannot be used: NULL where that is not allowed, or an impossible size. */
    MR_ERR_INVALID = -1,
    /* The configuration or an option cannot be used; the error text says where and why. */
    MR_ERR_CONFIG = -2,
    /* The configuration has no map of this name. */
    MR_ERR_NO_MAP = -3,
    /* Internal error of the library (a bug); please report it. */
    MR_ERR_INTERNAL = -4,
    /*
     * The system lacks a resource: descriptors, memory, a readable disk. The configuration is not at
     * fault; the same call may succeed later.
     */
    MR_ERR_SYSTEM = -5,
    /* mr_options.daemon has an address that cannot be used; the error text names it. */
    MR_ERR_ADDRESS = -6
} mr_code;

/* Size that holds any error text. A smaller buffer gets the part that fits. */
#define MR_ERROR_SIZE 512

/*
 * Short English text for a return code; never NULL, also for a number that is no return code. The text
 * is static. Any thread, at any time.
 */
const char *mr_strerror(mr_code code);

/* The version of the library, for example "0.1.0". The text is static. Any thread, at any time. */
const char *mr_version(void);

/* MR_VERSION_NUMBER of the loaded library. Any thread, at any time. */
uint32_t mr_version_number(void);

/* MR_ABI of the loaded library. Any thread, at any time. */
uint32_t mr_abi(void);

/* ---------------------------------------------------------------------------------------------
 * Opening and closing
 */

/* An open configuration with its lists. */
typedef struct mr_router mr_router;

/*
 * Options of mr_open_options. A member that is NULL or 0 is not set; a member that is set overrides the
 * configuration file. The strings are needed only during the call. Paths are as seen by this process at
 * that time; relative ones begin at its working directory.
 */
typedef struct mr_options {
    /* sizeof(mr_options) */
    size_t size;
    /* The configuration file; NULL: /etc/murder-route.toml, if there is one; "": none. */
    const char *config;
    /* Cyrus' imapd.conf, with the rules for mailbox names and the location of the list. */
    const char *imapd_conf;
    /* Cyrus' mailbox list. */
    const char *mailboxes_db;
    /* The directory of the daemon's replica. */
    const char *replica;
    /* Sources of the list, separated by commas: "mailboxes-db", "replica", "find". */
    const char *sources;
    /* Domains of the Murder, separated by commas. */
    const char *domains;
    /*
     * Endpoints of the daemon, separated by commas and tried in this order: "unix:/path",
     * "inet:127.0.0.1:port"; "": none. NULL: the listeners of the configuration that speak socketmap,
     * else unix:/run/murder-route.
     */
    const char *daemon;
    /*
     * Outcome for recipients that the list does not have, where no MUPDATE server is configured.
     * "confirm" (default): MR_DEFERRED if the list has records of other servers. "final": MR_UNKNOWN.
     */
    const char *misses;
    /*
     * Longest wait of one call in milliseconds, at most 5000; 0: 5000. It counts once for the whole
     * call, for all its recipients, for the daemon and locks together. A locked list is waited for up to
     * half of it, and at most one second.
     */
    uint32_t deadline;
    /* 0 */
    uint32_t reserved;
} mr_options;

#define MR_OPTIONS_INIT \
    { sizeof(mr_options), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, 0 }

/*
 * Opens a router by a configuration file (murder-route.toml(5)); NULL: /etc/murder-route.toml, or, if
 * there is none, the settings of /etc/imapd.conf.
 *
 * router: not NULL. Receives the new router, which the caller gives to mr_close, or NULL after an error.
 * error, error_size: buffer for the error text, ended by NUL; empty if there is no error. NULL or 0: no
 *   text is wanted.
 *
 * Returns MR_OK, MR_ERR_INVALID, MR_ERR_CONFIG, MR_ERR_SYSTEM, MR_ERR_ADDRESS or MR_ERR_INTERNAL. A
 * configuration without domains is MR_ERR_CONFIG, since every recipient would be MR_FOREIGN. A mailbox
 * list or a daemon that is missing, or a list that may not be read, is no error: recipients are
 * MR_DEFERRED until it is there. mr_warning has warnings about the configuration, mr_check the present
 * state.
 *
 * Any thread, at any time. Takes milliseconds. Blocks only if a host name of the configuration's
 * listeners has to be resolved.
 */
mr_code mr_open(const char *config, mr_router **router, char *error, size_t error_size);

/* As mr_open, with options; NULL: MR_OPTIONS_INIT. */
mr_code mr_open_options(const mr_options *options, mr_router **router, char *error,
                        size_t error_size);

/*
 * Closes a router; NULL: does nothing. No other thread may use it during the call or afterwards.
 * Decisions and replies made with it stay valid. After a fork, parent and child each close theirs.
 */
void mr_close(mr_router *router);

/*
 * Warning number nth about the configuration, as `murder-route check` prints it; the first one is 0.
 * NULL: there is no such warning, or the router is NULL. Warnings about lists, sockets and the master
 * depend on their state and are not among them: see mr_check. The text is valid until the router is
 * closed. Any thread.
 */
const char *mr_warning(mr_router *router, size_t nth);

/* ---------------------------------------------------------------------------------------------
 * Decisions
 */

/* The decision. Treat any other number, also 0, as MR_DEFERRED. */
typedef enum mr_outcome {
    /* Not known at present; try again later. */
    MR_DEFERRED = 101,
    /* Deliver by LMTP to host and port, or to the unix socket. */
    MR_DELIVER = 102,
    /* There is certainly no such mailbox. */
    MR_UNKNOWN = 103,
    /* Mail to this recipient is not permitted. */
    MR_REFUSED = 104,
    /* Not in our domains, or no address at all; routed elsewhere. */
    MR_FOREIGN = 105
} mr_outcome;

/* Detail of an outcome. */
typedef enum mr_detail {
    /* No detail. */
    MR_DETAIL_NONE = 201,
    /* MR_DEFERRED: concerns this mailbox or recipient, and passes without intervention. */
    MR_DETAIL_MAILBOX = 202,
    /* MR_DEFERRED: concerns the whole list, and may need the postmaster. */
    MR_DETAIL_LIST = 203,
    /* MR_REFUSED: a shared folder without permission to post anonymously (550 5.7.1). */
    MR_DETAIL_NO_POST = 204,
    /* MR_REFUSED: an address that lmtpd never accepts (501 5.1.3). */
    MR_DETAIL_SYNTAX = 205
} mr_detail;

/* Source of a decision. */
typedef enum mr_source {
    /* No list was needed, or none could decide. */
    MR_SOURCE_NONE = 301,
    /* Cyrus' mailbox list on this host. */
    MR_SOURCE_MAILBOXES_DB = 302,
    /* The daemon's replica, read by this process. */
    MR_SOURCE_REPLICA = 303,
    /* The daemon. */
    MR_SOURCE_DAEMON = 304
} mr_source;

/*
 * The decision for one recipient. Begin with MR_DECISION_INIT. Use the same struct for any number of
 * look-ups, one after the other, which is faster than a new one for each. End with mr_decision_clear. Do
 * not copy it: the strings belong to this struct, and are valid until the next look-up into it or until it
 * is cleared.
 */
typedef struct mr_decision {
    /* sizeof(mr_decision), set before the first look-up */
    size_t size;
    /* Treat an unknown number as MR_DEFERRED. */
    mr_outcome outcome;
    mr_detail detail;
    mr_source source;
    /* MR_DELIVER: TCP port, 1 to 65535; 0 for a unix socket. Otherwise 0. */
    uint32_t port;
    /*
     * Age of the source in seconds: the time since it last agreed with the MUPDATE master. 0: Cyrus'
     * own list, or no list was needed. -1: not known. A replica whose daemon is up and connected is a
     * few seconds old.
     */
    int64_t age;
    /*
     * MR_DELIVER: address for RCPT TO, without angle brackets: the recipient in the form that the
     * backend's lmtpd knows, quoted where RFC 5321 requires it. Otherwise NULL. Some releases of lmtpd
     * refuse a recipient in another case, or crash on it.
     */
    const char *recipient;
    /* MR_DELIVER: host name or address, IPv6 without brackets. Otherwise NULL. */
    const char *host;
    /* MR_DELIVER to a unix socket: its absolute path. Otherwise NULL. */
    const char *socket;
    /* MR_DELIVER: name of the mail server's transport, usually "lmtp". Otherwise NULL. */
    const char *transport;
    /*
     * Mailbox name in Cyrus' internal form, for example "user.jane" or "example.org!user.bob": the
     * one found, or else the one looked for. NULL if no look-up was needed. Not always UTF-8.
     */
    const char *mailbox;
    /* Server of the mailbox by the list; NULL: none, or this host. */
    const char *server;
    /* Partition of the mailbox on its server, possibly empty; NULL without a record. */
    const char *partition;
    /*
     * Reason for the postmaster, for every outcome and after every error; not for the sender of a
     * message. Never NULL or empty after a call that accepted the decision's size.
     */
    const char *reason;
    /* Private to the library. */
    void *memory;
} mr_decision;

#define MR_DECISION_INIT                                                                           \
    {                                                                                              \
        sizeof(mr_decision), MR_DEFERRED, MR_DETAIL_NONE, MR_SOURCE_NONE, 0, -1, NULL, NULL, NULL, \
            NULL, NULL, NULL, NULL, NULL, NULL                                                     \
    }

/*
 * Looks up a recipient: local[+detail]@domain as it came in RCPT TO, without angle brackets, quoted or
 * not, in any case. Any other string is MR_FOREIGN, also one that begins with a space.
 *
 * router, recipient, decision: not NULL. If decision is not NULL and its size is possible, it is always
 *   filled: after anything but MR_OK it is MR_DEFERRED.
 *
 * Returns MR_OK or MR_ERR_INVALID. An internal failure is MR_OK and MR_DEFERRED, with a reason.
 *
 * Any thread. Recipients in the list are answered in microseconds. Misses are forwarded to the daemon,
 * which takes up to the deadline. If the record changed within the last minute, the daemon is asked too,
 * for half a second at most: without an answer, the list's record is used. After a call has waited for the
 * daemon in vain, the daemon is not asked again for the same length of time: such calls return at once.
 */
mr_code mr_lookup(mr_router *router, const char *recipient, mr_decision *decision);

/*
 * mr_lookup with its own deadline in milliseconds, at most 5000. 0: waits neither for a lock nor for the
 * daemon. Recipients in the list are answered; those that the daemon would have to be asked about are
 * MR_DEFERRED.
 */
mr_code mr_lookup_within(mr_router *router, const char *recipient, uint32_t milliseconds,
                         mr_decision *decision);

/*
 * mr_lookup for many recipients. The daemon is asked about all of them together, and the deadline counts
 * once.
 *
 * recipients: an array of count strings; decisions: an array of count structs, each of which begins
 *   with the size of the first one. Neither may be NULL, unless count is 0.
 *
 * Returns MR_OK, or MR_ERR_INVALID if one of them is NULL or has a wrong size. Every decision is then
 * MR_DEFERRED, but the first one of a wrong size and those after it are not touched.
 */
mr_code mr_lookup_many(mr_router *router, const char *const *recipients, size_t count,
                       mr_decision *decisions);

/*
 * Frees the memory of a decision and resets it to MR_DECISION_INIT. Does nothing for NULL, an unused
 * decision, or one that was cleared before. Does not need the router.
 */
void mr_decision_clear(mr_decision *decision);

/* "deferred", "deliver", "unknown", "refused", "foreign"; "deferred" for any other number. Static. */
const char *mr_outcome_name(mr_outcome outcome);

/* ---------------------------------------------------------------------------------------------
 * Answers of the maps, as the daemon gives them to mail servers
 */

/* Kind of an answer. Treat an unknown number as MR_REPLY_TEMPORARY. */
typedef enum mr_reply_kind {
    /* Not known at present; try again later. The text is the reason, for the postmaster. */
    MR_REPLY_TEMPORARY = 401,
    /* Found; the text is the answer and not empty. */
    MR_REPLY_OK = 402,
    /* The map has no entry for this recipient. */
    MR_REPLY_NOT_FOUND = 403
} mr_reply_kind;

/* Answer of a map. Initialise, reuse and clear it as an mr_decision. */
typedef struct mr_reply {
    /* sizeof(mr_reply), set before the first use */
    size_t size;
    mr_reply_kind kind;
    /* 0 */
    uint32_t reserved;
    /* Never NULL after a call; may be empty. */
    const char *text;
    /* Private to the library. */
    void *memory;
} mr_reply;

#define MR_REPLY_INIT \
    { sizeof(mr_reply), MR_REPLY_TEMPORARY, 0, NULL, NULL }

/*
 * Answers as the given map: "lmtp", "recipient", "host", "canonical", or a map of the configuration; see
 * murder-route.toml(5). For example MR_REPLY_OK and "lmtp:inet:be1.example.org:2003".
 *
 * router, map, recipient, reply: not NULL. Returns MR_OK, MR_ERR_INVALID or MR_ERR_NO_MAP; after anything
 * but MR_OK the reply is MR_REPLY_TEMPORARY. Any thread; takes as long as mr_lookup.
 */
mr_code mr_answer(mr_router *router, const char *map, const char *recipient, mr_reply *reply);

/* As mr_decision_clear. */
void mr_reply_clear(mr_reply *reply);

/* ---------------------------------------------------------------------------------------------
 * Health
 */

/* State of a part. Treat an unknown number as MR_STATE_BAD. */
typedef enum mr_state {
    /* Not configured, so not needed. */
    MR_STATE_NONE = 501,
    /* Answers every recipient. */
    MR_STATE_GOOD = 502,
    /* Answers the recipients that it has; its misses count for nothing. */
    MR_STATE_HITS_ONLY = 503,
    /* Cannot be read, or does not answer. */
    MR_STATE_BAD = 504,
    /* Not checked: the call was not allowed to wait. */
    MR_STATE_UNCHECKED = 505
} mr_state;

/* State of all parts. Initialise, reuse and clear it as an mr_decision. */
typedef struct mr_status {
    /* sizeof(mr_status), set before the first use */
    size_t size;
    /*
     * Effect on mail. MR_STATE_GOOD: every recipient is answered. MR_STATE_HITS_ONLY: recipients in
     * the lists are answered, all others deferred. MR_STATE_BAD: every recipient is deferred.
     * MR_STATE_UNCHECKED: one of the first two.
     */
    mr_state overall;
    /* Cyrus' mailbox list on this host. */
    mr_state mailboxes_db;
    /* The daemon's replica, as this process reads it. */
    mr_state replica;
    /* The daemon: MR_STATE_GOOD if it answers a question that needs no list. */
    mr_state daemon;
    /* Number of records in the mailbox list; -1: not known. */
    int64_t mailboxes_db_records;
    /* Number of names in the replica; -1: not known. */
    int64_t replica_names;
    /* Seconds since the replica last agreed with the master's list; -1: not known. */
    int64_t replica_age;
    /* Reason for each state, for the postmaster. Never NULL or empty after a call. */
    const char *mailboxes_db_reason;
    const char *replica_reason;
    const char *daemon_reason;
    /* Private to the library. */
    void *memory;
} mr_status;

#define MR_STATUS_INIT                                                                             \
    {                                                                                              \
        sizeof(mr_status), MR_STATE_BAD, MR_STATE_NONE, MR_STATE_NONE, MR_STATE_NONE, -1, -1, -1,  \
            NULL, NULL, NULL, NULL                                                                 \
    }

/*
 * Checks all parts: opens the lists and sends the daemon a question that needs no list, even if other
 * calls have waited for the daemon in vain. Waits for the given milliseconds, at most 5000; 0: does not
 * wait, and the daemon is MR_STATE_UNCHECKED.
 *
 * router, status: not NULL. Returns MR_OK whatever the states are, MR_ERR_INVALID or MR_ERR_INTERNAL; after
 * anything but MR_OK the status is MR_STATE_BAD. Any thread.
 */
mr_code mr_check(mr_router *router, uint32_t milliseconds, mr_status *status);

/* As mr_decision_clear. */
void mr_status_clear(mr_status *status);

#ifdef __cplusplus
}
#endif

#endif
