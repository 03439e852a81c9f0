/*
 * Two copies of the library in one process, as in a mail server with two plugins.
 * Arguments: a configuration file, and the paths of the copies.
 */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

struct copy {
    mr_code (*open)(const char *, mr_router **, char *, size_t);
    mr_code (*lookup)(mr_router *, const char *, mr_decision *);
    void (*clear)(mr_decision *);
    void (*close)(mr_router *);
    mr_router *router;
};

/* ISO C has no conversion from an object pointer to a function pointer. */
static void find(void *library, const char *name, void *function)
{
    void *symbol = dlsym(library, name);

    CHECK(symbol != NULL);
    memcpy(function, &symbol, sizeof symbol);
}

static void *look_up(void *argument)
{
    struct copy *copy = (struct copy *)argument;
    mr_decision decision = MR_DECISION_INIT;
    int at;

    for (at = 0; at < 20000; at++) {
        CHECK(copy->lookup(copy->router, "jane@example.org", &decision) == MR_OK);
        CHECK(decision.outcome == MR_DELIVER && strcmp(decision.host, "be1.example.org") == 0);
    }
    copy->clear(&decision);
    return NULL;
}

int main(int argc, char **argv)
{
    struct copy copies[2];
    pthread_t threads[2];
    char error[MR_ERROR_SIZE];
    void *libraries[2];
    int at, status;
    pid_t pid;

    CHECK(argc == 4);
    for (at = 0; at < 2; at++) {
        libraries[at] = dlopen(argv[2 + at], RTLD_NOW | RTLD_LOCAL);
        if (libraries[at] == NULL) {
            fprintf(stderr, "%s\n", dlerror());
            return 1;
        }
        find(libraries[at], "mr_open", &copies[at].open);
        find(libraries[at], "mr_lookup", &copies[at].lookup);
        find(libraries[at], "mr_decision_clear", &copies[at].clear);
        find(libraries[at], "mr_close", &copies[at].close);
        if (copies[at].open(argv[1], &copies[at].router, error, sizeof error) != MR_OK) {
            fprintf(stderr, "%s\n", error);
            return 1;
        }
    }
    CHECK(copies[0].lookup != copies[1].lookup);
    for (at = 0; at < 2; at++)
        CHECK(pthread_create(&threads[at], NULL, look_up, &copies[at]) == 0);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        alarm(60);
        look_up(&copies[0]);
        look_up(&copies[1]);
        _exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    for (at = 0; at < 2; at++)
        CHECK(pthread_join(threads[at], NULL) == 0);
    /* The second copy works after the first is unloaded. */
    copies[0].close(copies[0].router);
    CHECK(dlclose(libraries[0]) == 0);
    look_up(&copies[1]);
    copies[1].close(copies[1].router);
    CHECK(dlclose(libraries[1]) == 0);
    puts("beside: well");
    return 0;
}
