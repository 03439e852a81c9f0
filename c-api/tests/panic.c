/*
 * A failure inside is temporary, and says nothing on standard error. Only a library built for this
 * test has one. Arguments: a configuration file.
 */
#define _POSIX_C_SOURCE 200809L
#include "opened.h"

#include <unistd.h>

int main(int argc, char **argv)
{
    mr_decision decisions[3] = { MR_DECISION_INIT, MR_DECISION_INIT, MR_DECISION_INIT };
    const char *recipients[3] = { "jane@example.org", "panic@example.org", "jane@example.org" };
    mr_reply reply = MR_REPLY_INIT;
    mr_router *router;
    int ends[2], round;
    char said;

    CHECK(argc == 2);
    router = opened(argv[1]);
    fflush(stderr);
    CHECK(pipe(ends) == 0 && dup2(ends[1], 2) == 2 && close(ends[1]) == 0);
    for (round = 0; round < 1000; round++) {
        if (mr_lookup_many(router, recipients, 3, decisions) != MR_OK
            || decisions[0].outcome != MR_DELIVER || decisions[2].outcome != MR_DELIVER
            || decisions[1].outcome != MR_DEFERRED || decisions[1].detail != MR_DETAIL_LIST
            || strstr(decisions[1].reason, "lookup.rs") == NULL)
            return 2;
        if (mr_answer(router, "lmtp", recipients[1], &reply) != MR_OK
            || reply.kind != MR_REPLY_TEMPORARY || strstr(reply.text, "bug") == NULL)
            return 3;
    }
    CHECK(close(2) == 0 && read(ends[0], &said, 1) == 0);
    for (round = 0; round < 3; round++)
        mr_decision_clear(&decisions[round]);
    mr_reply_clear(&reply);
    mr_close(router);
    puts("panic: well");
    return 0;
}
