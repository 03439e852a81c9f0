/*
 * A process that runs out of descriptors: mr_open either reports a temporary error, not a configuration
 * error, or opens the complete router. Arguments: a configuration file.
 */
#define _XOPEN_SOURCE 700
#include "opened.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    mr_decision decision = MR_DECISION_INIT;
    char error[MR_ERROR_SIZE];
    mr_router *router = NULL;
    struct rlimit limit;
    mr_code code;
    int first, more;

    CHECK(argc == 2);
    /* Files that are opened once per process are open. */
    mr_close(opened(argv[1]));
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    first = open("/dev/null", O_RDONLY);
    CHECK(first >= 0 && close(first) == 0);
    for (more = 0; more < 64; more++) {
        limit.rlim_cur = (rlim_t)(first + more);
        CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
        code = mr_open(argv[1], &router, error, sizeof error);
        if (code == MR_OK)
            break;
        if (code != MR_ERR_SYSTEM) {
            fprintf(stderr, "with %d descriptors: %d: %s\n", more, (int)code, error);
            return 1;
        }
        CHECK(router == NULL && strlen(error) > 0);
    }
    CHECK(code == MR_OK && more > 1);
    /* Without descriptors a recipient is deferred, with a reason. */
    limit.rlim_cur = 0;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    CHECK(mr_lookup(router, "nobody@example.org", &decision) == MR_OK);
    CHECK(decision.outcome == MR_DEFERRED && strlen(decision.reason) > 0);
    limit.rlim_cur = (rlim_t)(first + 64);
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    CHECK(mr_lookup(router, "jane@example.org", &decision) == MR_OK);
    CHECK(decision.outcome == MR_DELIVER);
    mr_decision_clear(&decision);
    mr_close(router);
    puts("scarce: well");
    return 0;
}
