/*
 * The process forks while its threads look up recipients. Each child looks up recipients too, forks, and
 * ends in time. Arguments: a configuration file, the number of children, and the daemon's answer for
 * nobody@example.org: "unknown" or "deferred".
 */
#define _POSIX_C_SOURCE 200809L
#include "opened.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

static mr_router *router;
static const char *nobody;
static volatile int over;

static void look(mr_decision *decision)
{
    CHECK(mr_lookup(router, "jane@example.org", decision) == MR_OK);
    CHECK(decision->outcome == MR_DELIVER && strcmp(decision->host, "be1.example.org") == 0);
    CHECK(mr_lookup(router, "nobody@example.org", decision) == MR_OK);
    if (strcmp(mr_outcome_name(decision->outcome), nobody) != 0) {
        fprintf(stderr, "%s: %s\n", mr_outcome_name(decision->outcome), decision->reason);
        exit(1);
    }
}

static void *look_up(void *unused)
{
    mr_decision decision = MR_DECISION_INIT;

    (void)unused;
    while (!over)
        look(&decision);
    mr_decision_clear(&decision);
    return NULL;
}

static void wait_for(pid_t pid)
{
    int status;

    CHECK(waitpid(pid, &status, 0) == pid);
    if (status != 0) {
        fprintf(stderr, "a child ended with %#x\n", (unsigned)status);
        exit(1);
    }
}

static void child(int with_grandchild)
{
    mr_decision decision = MR_DECISION_INIT;
    pid_t grandchild;
    int at;

    /* Ends a child that hangs. */
    alarm(60);
    for (at = 0; at < 3; at++)
        look(&decision);
    if (with_grandchild) {
        grandchild = fork();
        CHECK(grandchild >= 0);
        alarm(60);
        look(&decision);
        if (grandchild != 0)
            wait_for(grandchild);
    }
    mr_decision_clear(&decision);
    mr_close(router);
    _exit(0);
}

int main(int argc, char **argv)
{
    pthread_t threads[4];
    int at, children;
    pid_t pid;

    CHECK(argc == 4);
    router = opened(argv[1]);
    children = atoi(argv[2]);
    nobody = argv[3];
    for (at = 0; at < 4; at++)
        CHECK(pthread_create(&threads[at], NULL, look_up, NULL) == 0);
    for (at = 0; at < children; at++) {
        pid = fork();
        CHECK(pid >= 0);
        if (pid == 0)
            child(at % 4 == 0);
        wait_for(pid);
    }
    over = 1;
    for (at = 0; at < 4; at++)
        CHECK(pthread_join(threads[at], NULL) == 0);
    /* A child without any look-up closes the inherited router. */
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        mr_close(router);
        _exit(0);
    }
    wait_for(pid);
    mr_close(router);
    puts("fork: well");
    return 0;
}
