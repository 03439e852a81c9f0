/* Prints the backends of these recipients. Usage: lookup [-c CONFIG] RECIPIENT... */
#include <murder_route.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    const char *config = NULL;
    char error[MR_ERROR_SIZE];
    mr_router *router;
    mr_decision decision = MR_DECISION_INIT;
    int at = 1, status = 0;

    if (argc > 2 && strcmp(argv[1], "-c") == 0) {
        config = argv[2];
        at = 3;
    }
    if (mr_open(config, &router, error, sizeof error) != MR_OK) {
        fprintf(stderr, "lookup: %s\n", error);
        return 78; /* EX_CONFIG */
    }
    for (; at < argc; at++) {
        mr_lookup(router, argv[at], &decision);
        switch (decision.outcome) {
        case MR_DELIVER:
            if (decision.host != NULL)
                printf("%s: %s port %u, RCPT TO:<%s>\n", argv[at], decision.host,
                       (unsigned)decision.port, decision.recipient);
            else
                printf("%s: %s, RCPT TO:<%s>\n", argv[at], decision.socket, decision.recipient);
            break;
        case MR_UNKNOWN:
        case MR_REFUSED:
        case MR_FOREIGN:
            printf("%s: %s: %s\n", argv[at], mr_outcome_name(decision.outcome), decision.reason);
            if (status == 0)
                status = 1;
            break;
        default: /* MR_DEFERRED, and outcomes of later releases */
            printf("%s: deferred: %s\n", argv[at], decision.reason);
            status = 75; /* EX_TEMPFAIL */
        }
    }
    mr_decision_clear(&decision);
    mr_close(router);
    return status;
}
