/*
 * A later library, built only for these tests, sets one additional member of each struct for a program that
 * has it. Arguments: a configuration file.
 */
#include "opened.h"

/* Value of the additional member before the library sets it. */
#define LATER UINT64_MAX

struct decision {
    mr_decision first;
    uint64_t later;
};

struct reply {
    mr_reply first;
    uint64_t later;
};

struct status {
    mr_status first;
    uint64_t later;
};

int main(int argc, char **argv)
{
    struct decision decision = { MR_DECISION_INIT, 0 };
    struct reply reply = { MR_REPLY_INIT, 0 };
    struct status status = { MR_STATUS_INIT, 0 };
    mr_router *router;

    CHECK(argc == 2);
    router = opened(argv[1]);
    decision.first.size = sizeof decision;
    CHECK(mr_lookup(router, "jane@example.org", &decision.first) == MR_OK);
    CHECK(decision.first.outcome == MR_DELIVER && decision.later == LATER);
    reply.first.size = sizeof reply;
    CHECK(mr_answer(router, "lmtp", "jane@example.org", &reply.first) == MR_OK);
    CHECK(reply.first.kind == MR_REPLY_OK && reply.later == LATER);
    status.first.size = sizeof status;
    CHECK(mr_check(router, 0, &status.first) == MR_OK && status.later == LATER);
    mr_decision_clear(&decision.first);
    mr_reply_clear(&reply.first);
    mr_status_clear(&status.first);
    mr_close(router);
    return 0;
}
