/*
 * Many threads look up while others write the list. Arguments: a configuration file, how many
 * threads, how many look-ups each, and how many names k0, k1, ... are always there.
 */
#define _POSIX_C_SOURCE 200809L
#include "opened.h"

#include <pthread.h>

static mr_router *router;
static long lookups, names;

static void *look_up(void *number)
{
    unsigned long long random = 1 + *(int *)number;
    mr_decision decision = MR_DECISION_INIT;
    char recipient[64];
    long n;

    for (n = 0; n < lookups; n++) {
        random = random * 6364136223846793005ULL + 1442695040888963407ULL;
        if (n % 2000 == 1999) {
            sprintf(recipient, "nobody%ld@example.org", n);
            CHECK(mr_lookup(router, recipient, &decision) == MR_OK);
            CHECK(decision.outcome != MR_DELIVER);
            continue;
        }
        sprintf(recipient, "k%lu@example.org", (unsigned long)(random >> 33) % names);
        CHECK(mr_lookup(router, recipient, &decision) == MR_OK);
        if (decision.outcome != MR_DELIVER || strcmp(decision.host, "be1.example.org") != 0) {
            fprintf(stderr, "%s: %s: %s\n", recipient, mr_outcome_name(decision.outcome),
                    decision.reason);
            exit(1);
        }
    }
    mr_decision_clear(&decision);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[64];
    int numbers[64], count, at;

    CHECK(argc == 5);
    router = opened(argv[1]);
    count = atoi(argv[2]);
    lookups = atol(argv[3]);
    names = atol(argv[4]);
    CHECK(count > 0 && count <= 64 && names > 0);
    for (at = 0; at < count; at++) {
        numbers[at] = at;
        CHECK(pthread_create(&threads[at], NULL, look_up, &numbers[at]) == 0);
    }
    for (at = 0; at < count; at++)
        CHECK(pthread_join(threads[at], NULL) == 0);
    mr_close(router);
    puts("threads: well");
    return 0;
}
