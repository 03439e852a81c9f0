/*
 * Threads look up while the list is truncated and rewritten in place. A truncated list defers; it never
 * makes a recipient unknown, and never kills the process.
 *
 * Arguments: a configuration file, the number of threads, and the number of recipients k0, k1, ... at
 * example.org that the whole list has. Ends after the end of its standard input, when the list is whole
 * again.
 */
#define _POSIX_C_SOURCE 200809L
#include "opened.h"

#include <pthread.h>
#include <time.h>

static mr_router *router;
static long kept;
static int whole;

struct thread {
    pthread_t id;
    unsigned long long random;
    long delivered, deferred;
};

static int look_up(const char *recipient, mr_decision *decision, struct thread *self)
{
    CHECK(mr_lookup_within(router, recipient, 100, decision) == MR_OK);
    if (decision->outcome == MR_DELIVER) {
        self->delivered++;
        return 1;
    }
    if (decision->outcome != MR_DEFERRED) {
        fprintf(stderr, "%s: %s: %s\n", recipient, mr_outcome_name(decision->outcome),
                decision->reason);
        exit(1);
    }
    self->deferred++;
    return 0;
}

static void *run(void *thread)
{
    struct thread *self = thread;
    mr_decision decision = MR_DECISION_INIT;
    char recipient[64];

    while (!__atomic_load_n(&whole, __ATOMIC_RELAXED)) {
        self->random = self->random * 6364136223846793005ULL + 1442695040888963407ULL;
        sprintf(recipient, "k%ld@example.org",
                (long)((self->random >> 33) % (unsigned long)kept));
        look_up(recipient, &decision, self);
    }
    mr_decision_clear(&decision);
    return NULL;
}

int main(int argc, char **argv)
{
    static struct thread threads[64];
    static struct thread all, end;
    struct timespec pause = {0, 50 * 1000 * 1000};
    mr_decision decision = MR_DECISION_INIT;
    char recipient[64];
    long which, tries;
    int number, at;

    CHECK(argc == 4);
    router = opened(argv[1]);
    number = atoi(argv[2]);
    kept = atol(argv[3]);
    CHECK(number > 0 && number <= 64 && kept > 0);
    for (at = 0; at < number; at++) {
        threads[at].random = 1 + at;
        CHECK(pthread_create(&threads[at].id, NULL, run, &threads[at]) == 0);
    }
    while (getchar() != EOF)
        ;
    __atomic_store_n(&whole, 1, __ATOMIC_RELAXED);
    for (at = 0; at < number; at++) {
        CHECK(pthread_join(threads[at].id, NULL) == 0);
        all.delivered += threads[at].delivered;
        all.deferred += threads[at].deferred;
    }
    for (which = 0, tries = 0; which < kept; which++) {
        sprintf(recipient, "k%ld@example.org", which);
        while (!look_up(recipient, &decision, &end)) {
            CHECK(++tries < 400);
            nanosleep(&pause, NULL);
        }
    }
    mr_decision_clear(&decision);
    mr_close(router);
    printf("cut: well: %ld delivered, %ld deferred\n", all.delivered, all.deferred);
    return 0;
}
