/*
 * A program of release 0.1: built with the header of that release, which stands beside it, and run with
 * libraries of later ones. Neither file changes with the library: that is what they are for.
 *
 * Argument: a configuration file by which jane@example.org is at be1.example.org, port 2003, and
 * nobody@example.org is unknown.
 */
#include "murder_route-0.1.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JANE "jane@example.org"
#define NOBODY "nobody@example.org"

#define CHECK(what)                                                                    \
    do {                                                                               \
        if (!(what)) {                                                                 \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what);         \
            exit(1);                                                                   \
        }                                                                              \
    } while (0)

/* Each struct with a mark right behind it, where a larger one would go on. */
#define MARK "0123456789abcdef0123456789abcdef"

struct decision {
    mr_decision decision;
    char mark[sizeof MARK];
};

struct reply {
    mr_reply reply;
    char mark[sizeof MARK];
};

struct status {
    mr_status status;
    char mark[sizeof MARK];
};

struct options {
    mr_options options;
    char mark[sizeof MARK];
};

static void lookups(mr_router *router)
{
    struct decision one = { MR_DECISION_INIT, MARK };
    mr_decision many[3] = { MR_DECISION_INIT, MR_DECISION_INIT, MR_DECISION_INIT };
    const char *recipients[3] = { JANE, NOBODY, "jane@elsewhere.example" };
    size_t at;

    CHECK(mr_lookup(router, "JANE@example.org", &one.decision) == MR_OK);
    CHECK(one.decision.outcome == MR_DELIVER && one.decision.port == 2003);
    CHECK(strcmp(one.decision.host, "be1.example.org") == 0);
    CHECK(strcmp(one.decision.recipient, JANE) == 0);
    CHECK(one.decision.size == sizeof one.decision && strcmp(one.mark, MARK) == 0);
    CHECK(mr_lookup(router, NULL, &one.decision) == MR_ERR_INVALID);
    CHECK(one.decision.outcome == MR_DEFERRED && strcmp(one.mark, MARK) == 0);
    CHECK(mr_lookup_within(router, NOBODY, 5000, &one.decision) == MR_OK);
    CHECK(one.decision.outcome == MR_UNKNOWN && strcmp(one.mark, MARK) == 0);
    mr_decision_clear(&one.decision);
    CHECK(one.decision.memory == NULL && strcmp(one.mark, MARK) == 0);

    CHECK(mr_lookup_many(router, recipients, 3, many) == MR_OK);
    CHECK(many[0].outcome == MR_DELIVER && strcmp(many[0].host, "be1.example.org") == 0);
    CHECK(many[1].outcome == MR_UNKNOWN && many[2].outcome == MR_FOREIGN);
    for (at = 0; at < 3; at++) {
        CHECK(many[at].size == sizeof many[at] && strlen(many[at].reason) > 0);
        mr_decision_clear(&many[at]);
    }
}

static void answers(mr_router *router)
{
    struct reply one = { MR_REPLY_INIT, MARK };

    CHECK(mr_answer(router, "lmtp", JANE, &one.reply) == MR_OK);
    CHECK(one.reply.kind == MR_REPLY_OK);
    CHECK(strcmp(one.reply.text, "lmtp:inet:be1.example.org:2003") == 0);
    CHECK(mr_answer(router, "elsewhere", JANE, &one.reply) == MR_ERR_NO_MAP);
    CHECK(one.reply.kind == MR_REPLY_TEMPORARY && one.reply.size == sizeof one.reply);
    mr_reply_clear(&one.reply);
    CHECK(one.reply.memory == NULL && strcmp(one.mark, MARK) == 0);
}

static void health(mr_router *router)
{
    struct status one = { MR_STATUS_INIT, MARK };

    CHECK(mr_check(router, 100, &one.status) == MR_OK);
    CHECK(one.status.overall == MR_STATE_GOOD && one.status.mailboxes_db == MR_STATE_GOOD);
    CHECK(strlen(one.status.daemon_reason) > 0 && one.status.size == sizeof one.status);
    mr_status_clear(&one.status);
    CHECK(one.status.memory == NULL && strcmp(one.mark, MARK) == 0);
}

int main(int argc, char **argv)
{
    struct options one = { MR_OPTIONS_INIT, MARK };
    char error[MR_ERROR_SIZE];
    mr_router *router;

    CHECK(argc == 2);
    CHECK(mr_abi() == MR_ABI && mr_version_number() >= MR_VERSION_NUMBER);
    one.options.config = argv[1];
    if (mr_open_options(&one.options, &router, error, sizeof error) != MR_OK) {
        fprintf(stderr, "%s\n", error);
        return 1;
    }
    CHECK(one.options.size == sizeof one.options && strcmp(one.mark, MARK) == 0);
    lookups(router);
    answers(router);
    health(router);
    (void)mr_warning(router, 0);
    mr_close(router);
    one.options.config = "/nonexistent";
    CHECK(mr_open_options(&one.options, &router, error, sizeof error) == MR_ERR_CONFIG);
    puts("0.1: well");
    return 0;
}
