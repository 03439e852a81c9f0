/*
 * Like a mail server's process: opens the router as root, then enters a chroot and becomes another user.
 * Arguments: a configuration file and the directory of the chroot. Prints "ready" when it is there. Then
 * looks up each recipient from standard input, one per line, and prints the results, until the end of the file.
 */
#define _DEFAULT_SOURCE
#include "opened.h"

#include <grp.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    mr_decision decision = MR_DECISION_INIT;
    mr_router *router;
    char line[1000];

    CHECK(argc == 3);
    router = opened(argv[1]);
    CHECK(chroot(argv[2]) == 0 && chdir("/") == 0);
    CHECK(setgroups(0, NULL) == 0 && setgid(65534) == 0 && setuid(65534) == 0 && setuid(0) != 0);
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        CHECK(mr_lookup(router, line, &decision) == MR_OK);
        printf("%s %d %s: %s\n", mr_outcome_name(decision.outcome), (int)decision.source,
               decision.host == NULL ? "-" : decision.host, decision.reason);
        fflush(stdout);
    }
    mr_decision_clear(&decision);
    mr_close(router);
    return 0;
}
