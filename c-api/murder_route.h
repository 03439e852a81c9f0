/*
 * murder_route.h - where a letter goes in a Cyrus IMAP Murder
 *
 * One call tells for a recipient which backend holds the mailbox, in microseconds and from local
 * knowledge: Cyrus' own mailboxes.db, or the replica that the murder-route daemon keeps. See
 * murder_route(3); link with `pkg-config --cflags --libs murder_route`.
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
 * THE PROMISE. A recipient that exists is never refused. MR_UNKNOWN is said only when it is
 * certain: with a Murder, after the daemon has had it confirmed. Everything else, a torn file, a
 * daemon that does not answer, a bug of the library: all of that is MR_DEFERRED.
 *
 * INSIDE A MAIL SERVER the library starts no thread, sets no signal handler (SIGPIPE is not raised
 * by it), changes no environment variable, locale, working directory or umask, writes nothing to any
 * descriptor but its own, logs nothing, and never calls exit or abort. Its descriptors are
 * close-on-exec. It never writes to a file.
 *
 * A LIST TRUNCATED IN PLACE. Cyrus never truncates data that it has committed. An administrator who
 * empties the list or copies another file over it does: rename a file into its place instead. The
 * library reads lists with pread(2), never through a memory map, so a file that is truncated while it
 * is read cannot raise SIGBUS in the process. A file that is shorter than its header says makes the
 * answer MR_DEFERRED.
 *
 * CHROOT AND PRIVILEGES. What a chroot or a change of user takes away is opened by mr_open: the
 * configuration is read then, and never again; of mailboxes.db and of the replica the directory and
 * the file are kept open. So a list that only root may read can be read on, until Cyrus replaces the
 * file (a repack), which is noticed; from then on every recipient is asked of the daemon. The
 * daemon is reached by connecting to it, so one of its sockets must be within the chroot, or be a
 * TCP socket with a numeric address. A unix socket within the chroot may be configured by its path
 * as seen from outside.
 *
 * THREADS. A router may be used by any number of threads at a time; none waits for another one
 * for long. A mr_decision, mr_reply or error buffer belongs to one thread at a time. No function may
 * be called from a signal handler.
 *
 * FORK. A child of fork(2) may use, and close, the routers of its parent, also if other threads of
 * the parent were in a look-up meanwhile. Nothing is shared with the parent but descriptors for
 * reading: the child opens connections and locks of its own when it first looks up. A child of
 * vfork(2) must not call anything.
 *
 * POINTERS. No function may be given a pointer that does not point to what its type says, except
 * NULL where it is said to be allowed; where it is not, NULL gives MR_ERR_INVALID. A router that was
 * closed must not be used again. Strings that go in end with NUL, are copied, and may have any bytes.
 * Strings that come out end with NUL, are never longer than some 100,000 bytes, and have no control
 * characters; unless it is said otherwise they are UTF-8.
 *
 * NUMBERS. Return codes are MR_OK, which is 0, and MR_ERR_..., which are negative. All other
 * constants are positive, and no two constants of this header have the same value: a code that is
 * compared with an outcome, or an outcome with a source, matches nothing. Every switch needs a
 * default: a later library may return a number that this header does not list.
 *
 * COMPATIBILITY. The SONAME changes when a program would have to be built anew; that is what
 * MR_ABI counts. Within it functions, constants, and members at the end of structs may be added. So
 * every struct begins with its size, which the program sets (the MR_..._INIT macros do). The library
 * takes any size from that of release 0.1.0 on: it reads and writes the members that both sides know
 * and touches nothing beyond. A program built with any release of an MR_ABI runs with every later one.
 * A program built with a later release runs with an earlier one; members that the earlier one does not
 * know keep what MR_..._INIT gave them, and an option that it does not know is MR_ERR_INVALID.
 *
 * UNLOADING. The library stays in memory once it is loaded, also after dlclose(3).
 */
#ifndef MURDER_ROUTE_H
#define MURDER_ROUTE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What the SONAME ends with. */
#define MR_ABI 0

/* The release of this header: major * 1000000 + minor * 1000 + patch. */
#define MR_VERSION_NUMBER 1000

/* ---------------------------------------------------------------------------------------------
 * What functions return
 */

/* A return code. */
typedef enum mr_code {
    /* Success. For a look-up: the decision was made, and may be MR_DEFERRED. */
    MR_OK = 0,
    /* An argument cannot be used: NULL where that is not allowed, or an impossible size. */
    MR_ERR_INVALID = -1,
    /* The configuration or an option cannot be used; the error text says where and why. */
    MR_ERR_CONFIG = -2,
    /* The configuration has no map of this name. */
    MR_ERR_NO_MAP = -3,
    /* The library failed inside (a bug); please report it. */
    MR_ERR_INTERNAL = -4,
    /*
     * The system lacks something now: descriptors, memory, a disk that can be read. Nothing is wrong
     * with the configuration; the same call may succeed later.
     */
    MR_ERR_SYSTEM = -5,
    /* mr_options.daemon has an address that cannot be used; the error text names it. */
    MR_ERR_ADDRESS = -6
} mr_code;

/* Room for any error text. A shorter buffer gets as much of it as fits. */
#define MR_ERROR_SIZE 512

/*
 * A short text in English for a return code; never NULL, also for a number that is none of them. The
 * text is static. Any thread, at any time.
 */
const char *mr_strerror(mr_code code);

/* The version of the library, for example "0.1.0". The text is static. Any thread, at any time. */
const char *mr_version(void);

/* MR_VERSION_NUMBER of the library that was loaded. Any thread, at any time. */
uint32_t mr_version_number(void);

/* MR_ABI of the library that was loaded. Any thread, at any time. */
uint32_t mr_abi(void);

/* ---------------------------------------------------------------------------------------------
 * Opening and closing
 */

/* What recipients are looked up with. */
typedef struct mr_router mr_router;

/*
 * What mr_open_options is told. A member that is NULL, or 0, says nothing; what is said wins
 * over the configuration file. The strings are needed only during the call. Paths are as seen by
 * this process now; relative ones begin at its working directory.
 */
typedef struct mr_options {
    /* sizeof(mr_options) */
    size_t size;
    /* The configuration file; NULL: /etc/murder-route.toml, if there is one; "": none. */
    const char *config;
    /* Cyrus' imapd.conf: it says how a recipient becomes a mailbox, and where the list is. */
    const char *imapd_conf;
    /* Cyrus' mailbox list. */
    const char *mailboxes_db;
    /* The directory of the daemon's replica. */
    const char *replica;
    /* Where the list comes from: "mailboxes-db", "replica", "find", or several with commas. */
    const char *sources;
    /* The domains that are ours, with commas between them. */
    const char *domains;
    /*
     * Where the daemon is asked: "unix:/path", "inet:127.0.0.1:port", or several with commas, which
     * are tried in this order; "": nowhere. NULL: the configuration's listeners that speak
     * socketmap, else unix:/run/murder-route.
     */
    const char *daemon;
    /*
     * What a recipient is that the list lacks, where no MUPDATE server is configured: "confirm" (the
     * default): MR_DEFERRED if the list has records of other servers; "final": MR_UNKNOWN.
     */
    const char *misses;
    /*
     * How long one call may wait, in milliseconds; 0, and anything above: 5000. It counts once for
     * the whole call, however many recipients it has, for the daemon and for locks together. Up to
     * half of it, and no more than a second, is for a list that is locked.
     */
    uint32_t deadline;
    /* 0 */
    uint32_t reserved;
} mr_options;

#define MR_OPTIONS_INIT \
    { sizeof(mr_options), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, 0 }

/*
 * Opens a router by a configuration file (murder-route.toml(5)); NULL: /etc/murder-route.toml, or,
 * if there is none, what /etc/imapd.conf says.
 *
 * router: not NULL. It is set to the new router, which is the caller's, to be given to mr_close; or
 *   to NULL after an error.
 * error, error_size: gets the text of an error, ended by NUL; the empty text if there is none. NULL
 *   or 0: no text is wanted.
 *
 * Returns MR_OK, MR_ERR_INVALID, MR_ERR_CONFIG, MR_ERR_SYSTEM, MR_ERR_ADDRESS or MR_ERR_INTERNAL. No
 * domains at all are MR_ERR_CONFIG, since every recipient would be MR_FOREIGN. A mailbox list or a
 * daemon that is not there, or may not be read, is no error: recipients are MR_DEFERRED until it is.
 * mr_warning tells what is odd in the configuration, mr_check what works.
 *
 * Any thread, at any time. Waits for nobody, unless a host name of the configuration's listeners
 * has to be resolved. Takes milliseconds.
 */
mr_code mr_open(const char *config, mr_router **router, char *error, size_t error_size);

/* The same with options; NULL: MR_OPTIONS_INIT. */
mr_code mr_open_options(const mr_options *options, mr_router **router, char *error,
                        size_t error_size);

/*
 * Closes a router. NULL: does nothing. No other thread may be using it, nor use it afterwards.
 * Decisions and replies that were made with it stay as they are. A parent and a child of fork
 * each close theirs.
 */
void mr_close(mr_router *router);

/*
 * A warning about the configuration, as `murder-route check` gives it; NULL: there are not so many.
 * What it says beside of lists, sockets and the master depends on their state: see mr_check. The first
 * one is 0. The text belongs to the router and stays until that is closed. A NULL router has
 * none. Any thread.
 */
const char *mr_warning(mr_router *router, size_t nth);

/* ---------------------------------------------------------------------------------------------
 * Decisions
 */

/* What was decided. Take any other number for MR_DEFERRED, also 0: a decision never made. */
typedef enum mr_outcome {
    /* Not known now, try again later. */
    MR_DEFERRED = 101,
    /* Hand the message over by LMTP, to host and port or to the unix socket. */
    MR_DELIVER = 102,
    /* There is certainly no such mailbox. */
    MR_UNKNOWN = 103,
    /* The message may not go there. */
    MR_REFUSED = 104,
    /* None of our domains, or no address at all; somebody else knows where it goes. */
    MR_FOREIGN = 105
} mr_outcome;

/* More of an outcome. */
typedef enum mr_detail {
    /* Nothing to say. */
    MR_DETAIL_NONE = 201,
    /* MR_DEFERRED: it is about this mailbox or recipient, and passes by itself. */
    MR_DETAIL_MAILBOX = 202,
    /* MR_DEFERRED: it is about the list as a whole, and somebody may have to act. */
    MR_DETAIL_LIST = 203,
    /* MR_REFUSED: a shared folder that nobody may post to without logging in (550 5.7.1). */
    MR_DETAIL_NO_POST = 204,
    /* MR_REFUSED: an address that lmtpd takes of nobody (501 5.1.3). */
    MR_DETAIL_SYNTAX = 205
} mr_detail;

/* What a decision rests on. */
typedef enum mr_source {
    /* No list was asked, and none had to be; or none could tell. */
    MR_SOURCE_NONE = 301,
    /* Cyrus' mailbox list on this host. */
    MR_SOURCE_MAILBOXES_DB = 302,
    /* The daemon's replica, read by this process. */
    MR_SOURCE_REPLICA = 303,
    /* The daemon. */
    MR_SOURCE_DAEMON = 304
} mr_source;

/*
 * What was decided for one recipient. Begin with MR_DECISION_INIT; the same struct may be used for
 * any number of look-ups, one after the other, which is faster than a new one for each. End with
 * mr_decision_clear. Do not copy it: the strings belong to this struct, and are valid until the
 * next look-up into it or until it is cleared.
 */
typedef struct mr_decision {
    /* sizeof(mr_decision), set before the first look-up */
    size_t size;
    /* Take a number that you do not know for MR_DEFERRED. */
    mr_outcome outcome;
    mr_detail detail;
    mr_source source;
    /* MR_DELIVER: the TCP port, 1 to 65535; 0 for a unix socket. Else 0. */
    uint32_t port;
    /*
     * How many seconds ago what the decision rests on was as the MUPDATE master had it; 0: it is
     * Cyrus' own list as it stands, or no list was needed; -1: not known. A replica whose daemon is
     * up and connected is a few seconds old.
     */
    int64_t age;
    /*
     * MR_DELIVER: the address to give in RCPT TO, without angle brackets: the recipient in the form
     * that the backend's lmtpd knows it by, quoted where RFC 5321 wants it. Else NULL. Some releases of
     * lmtpd refuse, or die of, a recipient in another case.
     */
    const char *recipient;
    /* MR_DELIVER: a host name or address, an IPv6 address without brackets. Else NULL. */
    const char *host;
    /* MR_DELIVER to a unix socket: its absolute path. Else NULL. */
    const char *socket;
    /* MR_DELIVER: the name of the mail server's transport for it, "lmtp" as a rule. Else NULL. */
    const char *transport;
    /*
     * The mailbox in Cyrus' internal form, for example "user.jane" or "example.org!user.bob": the
     * one that was found, or else was looked for. NULL if it did not come to a look. Not always
     * UTF-8.
     */
    const char *mailbox;
    /* The server of the mailbox as the list has it; NULL: none, or this host. */
    const char *server;
    /* The partition of the mailbox on its server, perhaps empty; NULL without a record. */
    const char *partition;
    /*
     * Why, in words for the postmaster, of any outcome and after any error; not for the sender of a
     * message. Never NULL nor empty after a call that took the decision's size.
     */
    const char *reason;
    /* The library's. */
    void *memory;
} mr_decision;

#define MR_DECISION_INIT                                                                           \
    {                                                                                              \
        sizeof(mr_decision), MR_DEFERRED, MR_DETAIL_NONE, MR_SOURCE_NONE, 0, -1, NULL, NULL, NULL, \
            NULL, NULL, NULL, NULL, NULL, NULL                                                     \
    }

/*
 * Looks a recipient up: local[+detail]@domain as it came in RCPT TO, without angle brackets, quoted
 * or not, in any case. What is no such address is MR_FOREIGN, also one that begins with a space.
 *
 * None of the three may be NULL. Whatever is returned, decision says something true afterwards if it
 * is not NULL and its size can be meant: after anything but MR_OK it is MR_DEFERRED.
 *
 * Returns MR_OK or MR_ERR_INVALID. A failure inside is MR_OK and MR_DEFERRED, with a reason.
 *
 * Any thread. Whom the list has is answered in microseconds; whom it has not is asked of the
 * daemon, which takes up to the deadline. Whose record changed within the last minute is asked of
 * the daemon as well, for half a second at most: without an answer the list's word counts. A daemon
 * that let a call wait in vain is not asked for as long again: such calls are answered at once.
 */
mr_code mr_lookup(mr_router *router, const char *recipient, mr_decision *decision);

/*
 * mr_lookup with a deadline of its own, in milliseconds, 5000 at most. 0: never waits, neither for a
 * lock nor for the daemon. A recipient that the list has is answered, all others are MR_DEFERRED where
 * the daemon would have to be asked.
 */
mr_code mr_lookup_within(mr_router *router, const char *recipient, uint32_t milliseconds,
                         mr_decision *decision);

/*
 * The same for many recipients. Those that the daemon has to be asked for are sent to it together,
 * and the deadline counts once.
 *
 * recipients: an array of count strings; decisions: an array of count structs, each of which begins
 *   with the size of the first one. Neither may be NULL, unless count is 0.
 *
 * Returns MR_OK or MR_ERR_INVALID: then one of them was NULL or had a wrong size. No decision says anything
 * but MR_DEFERRED then, except that one of a wrong size and those after it are not touched.
 */
mr_code mr_lookup_many(mr_router *router, const char *const *recipients, size_t count,
                       mr_decision *decisions);

/*
 * Gives back what a decision owns, and resets it to MR_DECISION_INIT. NULL, a decision that was
 * never used, and one that was cleared before: does nothing more. Does not need the router.
 */
void mr_decision_clear(mr_decision *decision);

/* "deferred", "deliver", "unknown", "refused", "foreign"; "deferred" for any other number. Static. */
const char *mr_outcome_name(mr_outcome outcome);

/* ---------------------------------------------------------------------------------------------
 * The answers of the maps, as the daemon gives them to mail servers
 */

/* What kind of answer. Take a number that you do not know for MR_REPLY_TEMPORARY. */
typedef enum mr_reply_kind {
    /* Not known now, try again later; the text says why, for the postmaster. */
    MR_REPLY_TEMPORARY = 401,
    /* Found; the text is the answer, and not empty. */
    MR_REPLY_OK = 402,
    /* The map says nothing of this recipient. */
    MR_REPLY_NOT_FOUND = 403
} mr_reply_kind;

/* What a map answers; as mr_decision in all that is said there. */
typedef struct mr_reply {
    /* sizeof(mr_reply), set before the first use */
    size_t size;
    mr_reply_kind kind;
    /* 0 */
    uint32_t reserved;
    /* Never NULL after a call; empty if there is nothing to say. */
    const char *text;
    /* The library's. */
    void *memory;
} mr_reply;

#define MR_REPLY_INIT \
    { sizeof(mr_reply), MR_REPLY_TEMPORARY, 0, NULL, NULL }

/*
 * What the map answers of a recipient: "lmtp", "recipient", "host", "canonical", or one of the
 * configuration's own; see murder-route.toml(5). For example MR_REPLY_OK and
 * "lmtp:inet:be1.example.org:2003".
 *
 * None of the four may be NULL. Returns MR_OK, MR_ERR_INVALID or MR_ERR_NO_MAP; after anything but MR_OK, the
 * reply is MR_REPLY_TEMPORARY. Any thread; takes as long as mr_lookup.
 */
mr_code mr_answer(mr_router *router, const char *map, const char *recipient, mr_reply *reply);

/* As mr_decision_clear. */
void mr_reply_clear(mr_reply *reply);

/* ---------------------------------------------------------------------------------------------
 * Health
 */

/* How something is. Take a number that you do not know for MR_STATE_BAD. */
typedef enum mr_state {
    /* Not configured, so not needed. */
    MR_STATE_NONE = 501,
    /* Every recipient is answered by it. */
    MR_STATE_GOOD = 502,
    /* Recipients that it has are answered; it calls nobody unknown. */
    MR_STATE_HITS_ONLY = 503,
    /* Cannot be read, or does not answer. */
    MR_STATE_BAD = 504,
    /* Not looked at: the call might not wait. */
    MR_STATE_UNCHECKED = 505
} mr_state;

/* What works; as mr_decision in all that is said there. */
typedef struct mr_status {
    /* sizeof(mr_status), set before the first use */
    size_t size;
    /*
     * What mail servers see of it all. MR_STATE_GOOD: every recipient is answered. MR_STATE_HITS_ONLY:
     * recipients of the lists are answered, all others deferred. MR_STATE_BAD: every recipient is
     * deferred. MR_STATE_UNCHECKED: one of the first two.
     */
    mr_state overall;
    /* Cyrus' mailbox list on this host. */
    mr_state mailboxes_db;
    /* The daemon's replica, as this process reads it. */
    mr_state replica;
    /* The daemon: MR_STATE_GOOD if it answers a question that needs no list. */
    mr_state daemon;
    /* How many records the mailbox list has; -1: not known. */
    int64_t mailboxes_db_records;
    /* How many names the replica has; -1: not known. */
    int64_t replica_names;
    /* How many seconds ago the replica was as the master's list; -1: not known. */
    int64_t replica_age;
    /* Each of them in words for the postmaster. Never NULL nor empty after a call. */
    const char *mailboxes_db_reason;
    const char *replica_reason;
    const char *daemon_reason;
    /* The library's. */
    void *memory;
} mr_status;

#define MR_STATUS_INIT                                                                             \
    {                                                                                              \
        sizeof(mr_status), MR_STATE_BAD, MR_STATE_NONE, MR_STATE_NONE, MR_STATE_NONE, -1, -1, -1,  \
            NULL, NULL, NULL, NULL                                                                 \
    }

/*
 * Looks what works: opens the lists, and asks the daemon a question of no consequence, also one that
 * let other calls wait in vain. It waits for so many milliseconds, 5000 at most; 0: never, and the
 * daemon is MR_STATE_UNCHECKED.
 *
 * Neither router nor status may be NULL. Returns MR_OK, whatever is found, MR_ERR_INVALID or
 * MR_ERR_INTERNAL; after anything but MR_OK the status is MR_STATE_BAD. Any thread.
 */
mr_code mr_check(mr_router *router, uint32_t milliseconds, mr_status *status);

/* As mr_decision_clear. */
void mr_status_clear(mr_status *status);

#ifdef __cplusplus
}
#endif

#endif
