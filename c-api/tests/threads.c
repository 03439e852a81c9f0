/*
 * Many threads look up recipients while other processes write the list. Names looked up, at example.org:
 *
 *   k0, k1, ...  always exist, on the first host
 *   m0, m1, ...  always exist and move: each move increments the number of their partition, v0, v1, ...;
 *                even numbers are on the first host, odd ones on the second
 *   o0, o1, ...  come and go, on the second host
 *   nobody...    never exist
 *
 * Arguments: a configuration file, the number of threads, the number of look-ups of each; the numbers of k, m
 * and o, and the interval between look-ups of an m; the two hosts; and the source that an absence must rest on,
 * "daemon" or "list". Standard input has lines of two numbers, an m and the number of its moves so far: no later
 * answer may be older. After that many look-ups it continues until it reads -1 or the end.
 */
#define _POSIX_C_SOURCE 200809L
#include "opened.h"

#include <pthread.h>
#include <time.h>

static mr_router *router;
static long lookups, kept, moving, coming, one_in;
static const char *hosts[2];
static mr_source absence;
static int enough;
/* For each m, the oldest v that an answer may have. */
static long *known;

/* Permitted staleness of a hit: its 2 milliseconds become more on a busy machine. */
static const struct timespec LATE = {0, 50 * 1000 * 1000};

/* Interval between look-ups of a name that may not exist, each of which costs a question. */
#define STRANGE 4000

/* The v of each m that a thread saw last. */
struct mover {
    int host;
    long version;
};

struct thread {
    pthread_t id;
    unsigned long long random;
    struct mover *movers;
    long by_list, by_daemon, moves, unknown, deferred;
};

static long below(struct thread *self, long limit)
{
    self->random = self->random * 6364136223846793005ULL + 1442695040888963407ULL;
    return (long)((self->random >> 33) % (unsigned long)limit);
}

static void wrong(const char *recipient, const mr_decision *decision, const char *what)
{
    fprintf(stderr, "%s: %s: %s, host %s, partition %s, source %d: %s\n", recipient, what,
            mr_outcome_name(decision->outcome), decision->host ? decision->host : "-",
            decision->partition ? decision->partition : "-", decision->source, decision->reason);
    exit(1);
}

static int is_at(const mr_decision *decision, const char *host)
{
    return decision->outcome == MR_DELIVER && decision->host && strcmp(decision->host, host) == 0;
}

static void count(struct thread *self, const mr_decision *decision)
{
    if (decision->source == MR_SOURCE_DAEMON)
        self->by_daemon++;
    else
        self->by_list++;
}

/* Successive answers from the list never get older in one thread. */
static void check_moving(struct thread *self, const char *recipient, const mr_decision *decision,
                         long oldest, struct mover *mover)
{
    int host = is_at(decision, hosts[1]);
    long version;

    if (!host && !is_at(decision, hosts[0]))
        wrong(recipient, decision, "is at one of the two");
    self->moves += host != mover->host;
    mover->host = host;
    if (decision->source == MR_SOURCE_DAEMON)
        return;
    if (sscanf(decision->partition, "v%ld", &version) != 1)
        wrong(recipient, decision, "has no such partition");
    if (version % 2 != host)
        wrong(recipient, decision, "is half one record, half another");
    if (version < mover->version)
        wrong(recipient, decision, "has moved on before");
    if (version < oldest)
        wrong(recipient, decision, "has moved on a while ago");
    mover->version = version;
}

static void check_absent(struct thread *self, const char *recipient, const mr_decision *decision)
{
    if (decision->outcome == MR_DEFERRED)
        self->deferred++;
    else if (decision->outcome == MR_UNKNOWN && decision->source == absence)
        self->unknown++;
    else
        wrong(recipient, decision, "is not there");
}

static void *look_up(void *thread)
{
    struct thread *self = thread;
    mr_decision decision = MR_DECISION_INIT;
    char recipient[64];
    long n, which, oldest;

    for (n = 0; n < lookups || !__atomic_load_n(&enough, __ATOMIC_RELAXED); n++) {
        if (n % STRANGE == STRANGE / 2) {
            sprintf(recipient, "nobody%ld@example.org", n);
            CHECK(mr_lookup(router, recipient, &decision) == MR_OK);
            check_absent(self, recipient, &decision);
        } else if (n % STRANGE == 0 && coming > 0) {
            sprintf(recipient, "o%ld@example.org", below(self, coming));
            CHECK(mr_lookup(router, recipient, &decision) == MR_OK);
            if (!is_at(&decision, hosts[1]))
                check_absent(self, recipient, &decision);
        } else if (moving > 0 && n % one_in == 1) {
            which = below(self, moving);
            sprintf(recipient, "m%ld@example.org", which);
            oldest = __atomic_load_n(&known[which], __ATOMIC_RELAXED);
            CHECK(mr_lookup(router, recipient, &decision) == MR_OK);
            check_moving(self, recipient, &decision, oldest, &self->movers[which]);
            count(self, &decision);
        } else {
            sprintf(recipient, "k%ld@example.org", below(self, kept));
            CHECK(mr_lookup(router, recipient, &decision) == MR_OK);
            if (!is_at(&decision, hosts[0]))
                wrong(recipient, &decision, "is always there");
            count(self, &decision);
        }
    }
    mr_decision_clear(&decision);
    return NULL;
}

static void *learn(void *nothing)
{
    long which, version;

    while (scanf("%ld %ld", &which, &version) == 2) {
        if (which < 0) {
            __atomic_store_n(&enough, 1, __ATOMIC_RELAXED);
            continue;
        }
        CHECK(which < moving);
        if (which == 0)
            nanosleep(&LATE, NULL);
        __atomic_store_n(&known[which], version, __ATOMIC_RELAXED);
    }
    __atomic_store_n(&enough, 1, __ATOMIC_RELAXED);
    return nothing;
}

/* Waits until the daemon is asked about no k: for a while it is asked about new records. */
static void wait_until_settled(void)
{
    struct timespec pause = {0, 100 * 1000 * 1000};
    mr_decision decision = MR_DECISION_INIT;
    char recipient[64];
    long which, tries;

    for (which = 0, tries = 0; which < kept; tries++) {
        sprintf(recipient, "k%ld@example.org", which);
        CHECK(mr_lookup(router, recipient, &decision) == MR_OK);
        if (!is_at(&decision, hosts[0]))
            wrong(recipient, &decision, "is always there");
        if (decision.source != MR_SOURCE_DAEMON) {
            which++;
            continue;
        }
        if (tries > kept + 1200)
            wrong(recipient, &decision, "is always asked of the daemon");
        nanosleep(&pause, NULL);
    }
    mr_decision_clear(&decision);
}

int main(int argc, char **argv)
{
    static struct thread threads[64];
    struct thread all = {0};
    int number, at;
    pthread_t learner;

    CHECK(argc == 11);
    router = opened(argv[1]);
    number = atoi(argv[2]);
    lookups = atol(argv[3]);
    kept = atol(argv[4]);
    moving = atol(argv[5]);
    coming = atol(argv[6]);
    one_in = atol(argv[7]);
    hosts[0] = argv[8];
    hosts[1] = argv[9];
    absence = strcmp(argv[10], "daemon") == 0 ? MR_SOURCE_DAEMON : MR_SOURCE_MAILBOXES_DB;
    CHECK(number > 0 && number <= 64 && kept > 0 && one_in > 1);
    CHECK((known = calloc(moving + 1, sizeof *known)) != NULL);
    wait_until_settled();
    puts("threads: begin");
    fflush(stdout);
    for (at = 0; at < number; at++) {
        threads[at].random = 1 + at;
        CHECK((threads[at].movers = calloc(moving + 1, sizeof(struct mover))) != NULL);
        CHECK(pthread_create(&threads[at].id, NULL, look_up, &threads[at]) == 0);
    }
    CHECK(pthread_create(&learner, NULL, learn, NULL) == 0);
    for (at = 0; at < number; at++) {
        CHECK(pthread_join(threads[at].id, NULL) == 0);
        free(threads[at].movers);
        all.by_list += threads[at].by_list;
        all.by_daemon += threads[at].by_daemon;
        all.moves += threads[at].moves;
        all.unknown += threads[at].unknown;
        all.deferred += threads[at].deferred;
    }
    mr_close(router);
    printf("threads: well: %ld by the list, %ld by the daemon, %ld moves seen, %ld unknown, "
           "%ld put off\n",
           all.by_list, all.by_daemon, all.moves, all.unknown, all.deferred);
    return 0;
}
