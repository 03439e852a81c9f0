/*
 * Every function with valid arguments, with NULL, with invalid sizes, and with strings of any kind.
 * Arguments: a configuration file, an invalid one, an imapd.conf, and a configuration without domains.
 * C99, C11 and C++.
 */
#include "opened.h"

#define JANE "jane@example.org"

static void texts(void)
{
    int code;

    CHECK(strlen(mr_version()) > 0);
    CHECK(mr_abi() == MR_ABI);
    CHECK(mr_version_number() == MR_VERSION_NUMBER);
    for (code = -20; code < 20; code++)
        CHECK(mr_strerror((mr_code)code) != NULL && mr_strerror((mr_code)code)[0] != '\0');
    CHECK(mr_strerror((mr_code)INT32_MAX) != NULL && mr_strerror((mr_code)INT32_MIN) != NULL);
    CHECK(strcmp(mr_strerror(MR_OK), mr_strerror(MR_ERR_CONFIG)) != 0);
    CHECK(strcmp(mr_strerror(MR_ERR_SYSTEM), mr_strerror(MR_ERR_CONFIG)) != 0);
    CHECK(strcmp(mr_outcome_name(MR_DELIVER), "deliver") == 0);
    CHECK(strcmp(mr_outcome_name(MR_UNKNOWN), "unknown") == 0);
    CHECK(strcmp(mr_outcome_name(MR_REFUSED), "refused") == 0);
    CHECK(strcmp(mr_outcome_name(MR_FOREIGN), "foreign") == 0);
    for (code = -20; code < 102; code++)
        CHECK(strcmp(mr_outcome_name((mr_outcome)code), "deferred") == 0);
    CHECK(strcmp(mr_outcome_name((mr_outcome)999), "deferred") == 0);
}

/* No two constants have the same value, a code is never an outcome, and each has 4 bytes. */
static void numbers(void)
{
    static const int all[] = {
        MR_OK, MR_ERR_INVALID, MR_ERR_CONFIG, MR_ERR_NO_MAP, MR_ERR_INTERNAL, MR_ERR_SYSTEM,
        MR_ERR_ADDRESS, MR_DEFERRED, MR_DELIVER, MR_UNKNOWN, MR_REFUSED, MR_FOREIGN, MR_DETAIL_NONE,
        MR_DETAIL_MAILBOX, MR_DETAIL_LIST, MR_DETAIL_NO_POST, MR_DETAIL_SYNTAX, MR_SOURCE_NONE,
        MR_SOURCE_MAILBOXES_DB, MR_SOURCE_REPLICA, MR_SOURCE_DAEMON, MR_REPLY_TEMPORARY, MR_REPLY_OK,
        MR_REPLY_NOT_FOUND, MR_STATE_NONE, MR_STATE_GOOD, MR_STATE_HITS_ONLY, MR_STATE_BAD,
        MR_STATE_UNCHECKED
    };
    size_t at, other;

    for (at = 0; at < sizeof all / sizeof *all; at++) {
        CHECK(at < 7 ? all[at] <= 0 : all[at] > 0);
        for (other = 0; other < at; other++)
            CHECK(all[at] != all[other]);
    }
    CHECK(sizeof(mr_code) == 4 && sizeof(mr_outcome) == 4 && sizeof(mr_detail) == 4);
    CHECK(sizeof(mr_source) == 4 && sizeof(mr_reply_kind) == 4 && sizeof(mr_state) == 4);
}

static void opening(const char *config, const char *wrong)
{
    char error[MR_ERROR_SIZE], small[8];
    mr_router *router = (mr_router *)&small;
    mr_options options = MR_OPTIONS_INIT;
    struct {
        mr_options known;
        const char *later;
    } newer;

    CHECK(mr_open(wrong, &router, error, sizeof error) == MR_ERR_CONFIG);
    CHECK(router == NULL && strstr(error, wrong) != NULL);
    CHECK(mr_open("/nonexistent", &router, error, sizeof error) == MR_ERR_CONFIG);
    CHECK(router == NULL && strstr(error, "/nonexistent") != NULL);
    CHECK(mr_open("/nonexistent", &router, NULL, 0) == MR_ERR_CONFIG);
    CHECK(mr_open("/nonexistent", &router, NULL, 100) == MR_ERR_CONFIG);
    CHECK(mr_open("/nonexistent", &router, error, 0) == MR_ERR_CONFIG);
    memset(small, 'x', sizeof small);
    CHECK(mr_open("/nonexistent", &router, small, 4) == MR_ERR_CONFIG);
    CHECK(strcmp(small, "/no") == 0 && small[4] == 'x');
    CHECK(mr_open(config, NULL, error, sizeof error) == MR_ERR_INVALID && error[0] != '\0');
    CHECK(mr_open_options(NULL, NULL, NULL, 0) == MR_ERR_INVALID);

    options.config = config;
    CHECK(mr_open_options(&options, &router, error, sizeof error) == MR_OK && error[0] == '\0');
    mr_close(router);
    options.size = 0;
    CHECK(mr_open_options(&options, &router, error, sizeof error) == MR_ERR_INVALID);
    CHECK(router == NULL && error[0] != '\0');
    options.size = sizeof options - 1;
    CHECK(mr_open_options(&options, &router, error, sizeof error) == MR_ERR_INVALID);
    options.size = (size_t)-1;
    CHECK(mr_open_options(&options, &router, error, sizeof error) == MR_ERR_INVALID);
    options.size = sizeof options;
    options.reserved = 1;
    CHECK(mr_open_options(&options, &router, error, sizeof error) == MR_ERR_INVALID);
    options.reserved = 0;
    /* A program newer than the library: members that it does not set may be unknown to the library. */
    newer.known = options;
    newer.known.size = sizeof newer;
    newer.later = NULL;
    CHECK(mr_open_options(&newer.known, &router, error, sizeof error) == MR_OK);
    mr_close(router);
    newer.later = "something";
    CHECK(mr_open_options(&newer.known, &router, error, sizeof error) == MR_ERR_INVALID);

    options.sources = "mailboxes-db,elsewhere";
    CHECK(mr_open_options(&options, &router, error, sizeof error) == MR_ERR_CONFIG);
    CHECK(strstr(error, "elsewhere") != NULL);
    options.sources = NULL;
    options.daemon = "unix:";
    CHECK(mr_open_options(&options, &router, error, sizeof error) == MR_ERR_ADDRESS);
    CHECK(router == NULL && strstr(error, "unix:") != NULL);
    options.daemon = "unix:/run/murder-route, systemd:murder-route.socket";
    CHECK(mr_open_options(&options, &router, error, sizeof error) == MR_ERR_ADDRESS);
    options.daemon = "inet:127.0.0.1:0";
    CHECK(mr_open_options(&options, &router, error, sizeof error) == MR_ERR_ADDRESS);
    options.daemon = NULL;
    options.misses = "perhaps";
    CHECK(mr_open_options(&options, &router, error, sizeof error) == MR_ERR_CONFIG);
    CHECK(strstr(error, "perhaps") != NULL);
    options.misses = NULL;
    options.domains = "not a domain";
    CHECK(mr_open_options(&options, &router, error, sizeof error) == MR_ERR_CONFIG);
    options.domains = "\xff";
    CHECK(mr_open_options(&options, &router, error, sizeof error) == MR_ERR_INVALID);
    CHECK(strstr(error, "UTF-8") != NULL);
    mr_close(NULL);
}

/* Without domains every recipient would be foreign. */
static void no_domains(const char *config, const char *imapd_conf)
{
    char error[MR_ERROR_SIZE];
    mr_router *router;
    mr_options options = MR_OPTIONS_INIT;

    CHECK(mr_open(config, &router, error, sizeof error) == MR_ERR_CONFIG && router == NULL);
    CHECK(strstr(error, config) != NULL && strstr(error, "domains") != NULL);
    options.config = "";
    options.imapd_conf = imapd_conf;
    CHECK(mr_open_options(&options, &router, error, sizeof error) == MR_ERR_CONFIG);
    CHECK(strstr(error, "domains") != NULL && strstr(error, "/dev/null") == NULL);
    options.domains = " , ";
    CHECK(mr_open_options(&options, &router, error, sizeof error) == MR_ERR_CONFIG);
    options.domains = "example.org";
    CHECK(mr_open_options(&options, &router, error, sizeof error) == MR_OK);
    mr_close(router);
}

/* Warnings of a configuration: it names no imapd.conf. */
static void warnings(mr_router *router, const char *imapd_conf)
{
    char error[MR_ERROR_SIZE];
    mr_router *plain;
    mr_options options = MR_OPTIONS_INIT;
    const char *first = mr_warning(router, 0);
    size_t count = 0;

    while (mr_warning(router, count) != NULL)
        CHECK(strlen(mr_warning(router, count++)) > 0);
    CHECK(mr_warning(router, 0) == first);
    CHECK(mr_warning(router, (size_t)-1) == NULL && mr_warning(NULL, 0) == NULL);

    options.config = "";
    options.domains = "example.org";
    options.imapd_conf = imapd_conf;
    CHECK(mr_open_options(&options, &plain, error, sizeof error) == MR_OK);
    count = 0;
    while (mr_warning(plain, count) != NULL)
        CHECK(strstr(mr_warning(plain, count++), "no imapd.conf") == NULL);
    mr_close(plain);
    options.imapd_conf = NULL;
    options.mailboxes_db = "/nonexistent";
    CHECK(mr_open_options(&options, &plain, error, sizeof error) == MR_OK);
    CHECK(mr_warning(plain, 0) != NULL && strstr(mr_warning(plain, 0), "no imapd.conf") != NULL);
    mr_close(plain);
}

static void checking(mr_router *router, const char *imapd_conf)
{
    char error[MR_ERROR_SIZE];
    mr_router *broken;
    mr_options options = MR_OPTIONS_INIT;
    mr_status status = MR_STATUS_INIT;

    CHECK(mr_check(router, 1000, &status) == MR_OK && status.size == sizeof status);
    CHECK(status.overall == MR_STATE_GOOD && status.mailboxes_db == MR_STATE_GOOD);
    CHECK(status.mailboxes_db_records > 0 && status.replica == MR_STATE_NONE);
    CHECK(status.replica_names == -1 && status.replica_age == -1);
    CHECK(strlen(status.mailboxes_db_reason) > 0 && strlen(status.replica_reason) > 0);
    CHECK(status.daemon == MR_STATE_BAD && strlen(status.daemon_reason) > 0);
    CHECK(mr_check(router, 0, &status) == MR_OK && status.daemon == MR_STATE_UNCHECKED);
    CHECK(status.overall == MR_STATE_GOOD);

    CHECK(mr_check(NULL, 0, &status) == MR_ERR_INVALID && status.overall == MR_STATE_BAD);
    CHECK(strlen(status.daemon_reason) > 0);
    CHECK(mr_check(router, 0, NULL) == MR_ERR_INVALID);
    status.size -= 8;
    CHECK(mr_check(router, 0, &status) == MR_ERR_INVALID);
    status.size += 8;
    mr_status_clear(&status);
    CHECK(status.memory == NULL && status.daemon_reason == NULL && status.size == sizeof status);
    mr_status_clear(&status);
    mr_status_clear(NULL);

    options.config = "";
    options.domains = "example.org";
    options.daemon = "";
    options.imapd_conf = imapd_conf;
    options.mailboxes_db = "/nonexistent/mailboxes.db";
    CHECK(mr_open_options(&options, &broken, error, sizeof error) == MR_OK);
    CHECK(mr_check(broken, 1000, &status) == MR_OK && status.overall == MR_STATE_BAD);
    CHECK(status.mailboxes_db == MR_STATE_BAD && status.mailboxes_db_records == -1);
    CHECK(strstr(status.mailboxes_db_reason, "/nonexistent/mailboxes.db") != NULL);
    CHECK(status.daemon == MR_STATE_NONE);
    mr_status_clear(&status);
    mr_close(broken);
}

static void explicit_options(const char *imapd_conf)
{
    char error[MR_ERROR_SIZE];
    mr_router *router;
    mr_options options = MR_OPTIONS_INIT;
    mr_decision decision = MR_DECISION_INIT;

    options.config = "";
    options.imapd_conf = imapd_conf;
    options.domains = "else.example, example.org";
    options.daemon = "";
    options.deadline = 50;
    if (mr_open_options(&options, &router, error, sizeof error) != MR_OK) {
        fprintf(stderr, "%s\n", error);
        exit(1);
    }
    CHECK(mr_lookup(router, JANE, &decision) == MR_OK && decision.outcome == MR_DELIVER);
    CHECK(mr_lookup(router, "jane@example.net", &decision) == MR_OK);
    CHECK(decision.outcome == MR_FOREIGN);
    /* The list has records of other servers. */
    CHECK(mr_lookup(router, "nobody@example.org", &decision) == MR_OK);
    CHECK(decision.outcome == MR_DEFERRED && decision.detail == MR_DETAIL_MAILBOX);
    mr_close(router);
    options.misses = "final";
    CHECK(mr_open_options(&options, &router, error, sizeof error) == MR_OK);
    CHECK(mr_lookup(router, "nobody@example.org", &decision) == MR_OK);
    CHECK(decision.outcome == MR_UNKNOWN);
    mr_close(router);
    /* The decision stays valid. */
    CHECK(strlen(decision.reason) > 0);
    mr_decision_clear(&decision);
}

static void looking_up(mr_router *router)
{
    mr_decision decision = MR_DECISION_INIT;
    struct {
        mr_decision known;
        char later[64];
    } newer;
    char before[64];

    CHECK(mr_lookup(router, JANE, &decision) == MR_OK);
    CHECK(decision.size == sizeof decision && decision.outcome == MR_DELIVER);
    CHECK(strcmp(decision.host, "be1.example.org") == 0 && decision.port == 2003);
    CHECK(decision.socket == NULL && strcmp(decision.transport, "lmtp") == 0);
    CHECK(strcmp(decision.mailbox, "user.jane") == 0);
    CHECK(strcmp(decision.server, "be1.example.org") == 0);
    CHECK(strcmp(decision.partition, "default") == 0);
    CHECK(decision.source == MR_SOURCE_MAILBOXES_DB && decision.age == 0);
    CHECK(decision.detail == MR_DETAIL_NONE && strstr(decision.reason, "be1") != NULL);
    CHECK(strcmp(decision.recipient, JANE) == 0);

    CHECK(mr_lookup(router, "JANE+Work@EXAMPLE.ORG", &decision) == MR_OK);
    CHECK(decision.outcome == MR_DELIVER);
    CHECK(strcmp(decision.recipient, "jane+Work@example.org") == 0);
    CHECK(mr_lookup(router, "\"jane\"@Example.org", &decision) == MR_OK);
    CHECK(decision.outcome == MR_DELIVER && strcmp(decision.recipient, JANE) == 0);
    CHECK(mr_lookup(router, "Max.Muster+X@EXAMPLE.org", &decision) == MR_OK);
    CHECK(decision.outcome == MR_DELIVER);
    CHECK(strcmp(decision.recipient, "max.muster+X@example.org") == 0);
    CHECK(mr_lookup_within(router, JANE, 0, &decision) == MR_OK);
    CHECK(decision.outcome == MR_DELIVER && strcmp(decision.recipient, JANE) == 0);
    CHECK(mr_lookup_within(router, "nobody@example.org", 0, &decision) == MR_OK);
    CHECK(decision.outcome == MR_UNKNOWN && decision.recipient == NULL);
    CHECK(mr_lookup_within(router, JANE, UINT32_MAX, &decision) == MR_OK);
    CHECK(decision.outcome == MR_DELIVER);
    CHECK(mr_lookup_within(NULL, JANE, 0, &decision) == MR_ERR_INVALID);
    CHECK(mr_lookup_within(router, NULL, 0, &decision) == MR_ERR_INVALID);
    CHECK(decision.outcome == MR_DEFERRED && strlen(decision.reason) > 0);
    CHECK(mr_lookup_within(router, JANE, 0, NULL) == MR_ERR_INVALID);
    CHECK(mr_lookup(router, "nobody@example.org", &decision) == MR_OK);
    CHECK(decision.outcome == MR_UNKNOWN && decision.host == NULL && decision.port == 0);
    CHECK(decision.recipient == NULL);
    CHECK(strcmp(decision.mailbox, "user.nobody") == 0 && decision.partition == NULL);
    CHECK(mr_lookup(router, "jane@elsewhere.example", &decision) == MR_OK);
    CHECK(decision.outcome == MR_FOREIGN && decision.source == MR_SOURCE_NONE);
    CHECK(decision.mailbox == NULL && decision.age == 0);

    CHECK(mr_lookup(NULL, JANE, &decision) == MR_ERR_INVALID);
    CHECK(decision.outcome == MR_DEFERRED && decision.host == NULL);
    CHECK(decision.recipient == NULL && strlen(decision.reason) > 0);
    CHECK(mr_lookup(router, JANE, &decision) == MR_OK && decision.outcome == MR_DELIVER);
    CHECK(mr_lookup(router, NULL, &decision) == MR_ERR_INVALID);
    CHECK(decision.outcome == MR_DEFERRED && decision.host == NULL);
    CHECK(mr_lookup(router, JANE, NULL) == MR_ERR_INVALID);
    CHECK(mr_lookup(NULL, NULL, NULL) == MR_ERR_INVALID);

    decision.size = 0;
    CHECK(mr_lookup(router, JANE, &decision) == MR_ERR_INVALID);
    decision.size = sizeof decision - 8;
    CHECK(mr_lookup(router, JANE, &decision) == MR_ERR_INVALID);
    decision.size = sizeof decision + 1;
    CHECK(mr_lookup(router, JANE, &decision) == MR_ERR_INVALID);
    decision.size = (size_t)-8;
    CHECK(mr_lookup(router, JANE, &decision) == MR_ERR_INVALID);
    mr_decision_clear(&decision); /* invalid as well: no effect */
    decision.size = sizeof decision;
    mr_decision_clear(&decision);
    CHECK(decision.size == sizeof decision && decision.memory == NULL && decision.age == -1);
    CHECK(decision.reason == NULL && decision.outcome == MR_DEFERRED);
    mr_decision_clear(&decision);
    mr_decision_clear(NULL);

    /* A program newer than the library. */
    memset(&newer, 0, sizeof newer);
    newer.known.size = sizeof newer;
    memset(newer.later, 'x', sizeof newer.later);
    memcpy(before, newer.later, sizeof before);
    CHECK(mr_lookup(router, JANE, &newer.known) == MR_OK);
    CHECK(newer.known.outcome == MR_DELIVER && newer.known.size == sizeof newer);
    CHECK(memcmp(before, newer.later, sizeof before) == 0);
    mr_decision_clear(&newer.known);
    CHECK(memcmp(before, newer.later, sizeof before) == 0);
}

static void any_recipient(mr_router *router)
{
    static const char *const odd[] = {
        "", " ", "@", "*", "@example.org", "jane", "jane@", "\"", "\"@example.org", "<jane@example.org>",
        "\"jane\"@example.org", "a@b@example.org", "..@example.org", "+@example.org", "\n@example.org",
        "\r\n.\r\n@example.org", "\x01\x7f@example.org", "\xff\xfe@example.org", "%s%n@example.org",
        "\xc3\xbc@example.org", "user.jane@example.org", "jane!x@example.org", "../../etc@example.org"
    };
    static const char *const no_address[] = {
        " jane@example.org", "jane @example.org", " @example.org", " a@b", "jane@example.org ", "",
        " ", "jane", "@example.org"
    };
    static const size_t lengths[] = { 60, 250, 500, 511, 1000, 9980, 10000, 100000, 5000000 };
    mr_decision decision = MR_DECISION_INIT;
    mr_reply reply = MR_REPLY_INIT;
    size_t at, byte;

    for (at = 0; at < sizeof odd / sizeof *odd; at++) {
        CHECK(mr_lookup(router, odd[at], &decision) == MR_OK);
        CHECK(strlen(decision.reason) > 0);
        for (byte = 0; decision.reason[byte] != '\0'; byte++)
            CHECK((unsigned char)decision.reason[byte] >= ' ');
        CHECK(mr_answer(router, "lmtp", odd[at], &reply) == MR_OK && reply.text != NULL);
    }
    for (at = 0; at < sizeof no_address / sizeof *no_address; at++) {
        CHECK(mr_lookup(router, no_address[at], &decision) == MR_OK);
        CHECK(decision.outcome == MR_FOREIGN && decision.source == MR_SOURCE_NONE);
        CHECK(strlen(decision.reason) > 0 && decision.recipient == NULL);
        CHECK(mr_lookup_many(router, &no_address[at], 1, &decision) == MR_OK);
        CHECK(decision.outcome == MR_FOREIGN && strlen(decision.reason) > 0);
        CHECK(mr_answer(router, "lmtp", no_address[at], &reply) == MR_OK);
        CHECK(reply.kind == MR_REPLY_NOT_FOUND);
        CHECK(mr_answer(router, "elsewhere", no_address[at], &reply) == MR_ERR_NO_MAP);
    }
    for (at = 0; at < sizeof lengths / sizeof *lengths; at++) {
        size_t length = lengths[at];
        char *text = (char *)malloc(length + sizeof "@example.org");
        CHECK(text != NULL);
        memset(text, 'a', length);
        memcpy(text + length, "@example.org", sizeof "@example.org");
        CHECK(mr_lookup(router, text, &decision) == MR_OK);
        CHECK(decision.outcome != MR_DELIVER);
        CHECK(mr_answer(router, "lmtp", text, &reply) == MR_OK);
        text[length] = 'a';
        CHECK(mr_lookup(router, text, &decision) == MR_OK && decision.outcome == MR_FOREIGN);
        free(text);
    }
    mr_decision_clear(&decision);
    mr_reply_clear(&reply);
}

static void many(mr_router *router)
{
    const char *recipients[100];
    mr_decision decisions[100];
    size_t at;

    for (at = 0; at < 100; at++) {
        mr_decision begin = MR_DECISION_INIT;
        decisions[at] = begin;
        recipients[at] = at % 3 == 0 ? JANE : at % 3 == 1 ? "nobody@example.org" : "*";
    }
    CHECK(mr_lookup_many(router, recipients, 100, decisions) == MR_OK);
    for (at = 0; at < 100; at++) {
        CHECK(decisions[at].outcome
              == (at % 3 == 0 ? MR_DELIVER : at % 3 == 1 ? MR_UNKNOWN : MR_FOREIGN));
        CHECK(at % 3 != 0 || strcmp(decisions[at].host, "be1.example.org") == 0);
        CHECK(at % 3 != 0 || strcmp(decisions[at].recipient, JANE) == 0);
        CHECK(strlen(decisions[at].reason) > 0);
    }
    recipients[50] = NULL;
    CHECK(mr_lookup_many(router, recipients, 100, decisions) == MR_ERR_INVALID);
    for (at = 0; at < 100; at++) {
        CHECK(decisions[at].outcome == MR_DEFERRED && decisions[at].host == NULL);
        CHECK(strlen(decisions[at].reason) > 0);
    }
    recipients[50] = JANE;
    decisions[60].size = 8;
    CHECK(mr_lookup_many(router, recipients, 100, decisions) == MR_ERR_INVALID);
    decisions[60].size = sizeof *decisions;
    CHECK(mr_lookup_many(NULL, recipients, 100, decisions) == MR_ERR_INVALID);
    CHECK(mr_lookup_many(router, NULL, 100, decisions) == MR_ERR_INVALID);
    CHECK(mr_lookup_many(router, recipients, 100, NULL) == MR_ERR_INVALID);
    CHECK(mr_lookup_many(router, NULL, 0, NULL) == MR_OK);
    CHECK(mr_lookup_many(NULL, NULL, 0, NULL) == MR_ERR_INVALID);
    for (at = 0; at < 100; at++)
        mr_decision_clear(&decisions[at]);
}

static void answers(mr_router *router)
{
    mr_reply reply = MR_REPLY_INIT;

    CHECK(mr_answer(router, "lmtp", JANE, &reply) == MR_OK && reply.kind == MR_REPLY_OK);
    CHECK(strcmp(reply.text, "lmtp:inet:be1.example.org:2003") == 0);
    CHECK(mr_answer(router, "lmtp", "nobody@example.org", &reply) == MR_OK);
    CHECK(reply.kind == MR_REPLY_OK && strncmp(reply.text, "error:5.1.1 ", 12) == 0);
    CHECK(mr_answer(router, "host", JANE, &reply) == MR_OK && reply.kind == MR_REPLY_OK);
    CHECK(strcmp(reply.text, "be1.example.org") == 0);
    CHECK(mr_answer(router, "recipient", "x@elsewhere.example", &reply) == MR_OK);
    CHECK(reply.kind == MR_REPLY_NOT_FOUND && reply.text[0] == '\0');
    CHECK(mr_answer(router, "elsewhere", JANE, &reply) == MR_ERR_NO_MAP);
    CHECK(reply.kind == MR_REPLY_TEMPORARY && strlen(reply.text) > 0);
    CHECK(mr_answer(router, "", JANE, &reply) == MR_ERR_NO_MAP);
    CHECK(mr_answer(router, "\xff", JANE, &reply) == MR_ERR_NO_MAP);
    CHECK(mr_answer(NULL, "lmtp", JANE, &reply) == MR_ERR_INVALID);
    CHECK(mr_answer(router, NULL, JANE, &reply) == MR_ERR_INVALID);
    CHECK(mr_answer(router, "lmtp", NULL, &reply) == MR_ERR_INVALID);
    CHECK(mr_answer(router, "lmtp", JANE, NULL) == MR_ERR_INVALID);
    reply.size = 3;
    CHECK(mr_answer(router, "lmtp", JANE, &reply) == MR_ERR_INVALID);
    reply.size = sizeof reply;
    mr_reply_clear(&reply);
    mr_reply_clear(&reply);
    mr_reply_clear(NULL);
    CHECK(reply.memory == NULL && reply.text == NULL);
}

int main(int argc, char **argv)
{
    mr_router *router, *another;

    CHECK(argc == 5);
    texts();
    numbers();
    no_domains(argv[4], argv[3]);
    opening(argv[1], argv[2]);
    explicit_options(argv[3]);
    router = opened(argv[1]);
    another = opened(argv[1]);
    looking_up(router);
    mr_close(another);
    any_recipient(router);
    many(router);
    answers(router);
    warnings(router, argv[3]);
    checking(router, argv[3]);
    mr_close(router);
    puts("contract: well");
    return 0;
}
