/*
 * Looks up recipients as a program in C does: with the library, or from the daemon over its socket.
 *
 *   library look CONFIG          with the library
 *   library ask SOCKET           socketmap requests, each sent after the answer to the previous one
 *   library open CONFIG KEY      prints the milliseconds from mr_open to the first answer
 *
 * The first two read names of files from standard input. Each file has one recipient per line. All of them are
 * looked up, and the seconds are printed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <murder_route.h>

static void die(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static mr_router *router;
static mr_decision decision = MR_DECISION_INIT;

static void start(const char *config)
{
    char error[MR_ERROR_SIZE];

    if (mr_open(config, &router, error, sizeof error) != MR_OK)
        die(config, error);
}

static void look(const char *recipient)
{
    if (mr_lookup(router, recipient, &decision) != MR_OK || decision.outcome != MR_DELIVER
        || decision.host == NULL || decision.source == MR_SOURCE_DAEMON)
        die(recipient, decision.reason);
}

static int server = -1;

static void dial(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };

    if (strlen(path) >= sizeof address.sun_path)
        die(path, "too long");
    strcpy(address.sun_path, path);
    server = socket(AF_UNIX, SOCK_STREAM, 0);
    if (server < 0 || connect(server, (struct sockaddr *)&address, sizeof address) < 0)
        die(path, "no connection");
}

static void ask(const char *recipient)
{
    char buf[1024];
    int len = snprintf(buf, sizeof buf, "%zu:lmtp %s,", strlen(recipient) + 5, recipient);
    ssize_t got = write(server, buf, (size_t)len) == len ? 0 : -1;

    /* An answer is so short that it comes at once. */
    if (got == 0)
        got = read(server, buf, sizeof buf - 1);
    buf[got < 0 ? 0 : got] = '\0';
    if (got < 1 || buf[got - 1] != ',' || strstr(buf, ":OK lmtp:") == NULL)
        die(recipient, buf);
}

/* Recipients of a file, each ended by NUL; how many bytes. */
static size_t read_keys(const char *path, char **keys)
{
    FILE *file = fopen(path, "r");
    long size;

    if (file == NULL || fseek(file, 0, SEEK_END) != 0 || (size = ftell(file)) < 0)
        die(path, "cannot be read");
    rewind(file);
    *keys = malloc((size_t)size + 1);
    if (*keys == NULL || fread(*keys, 1, (size_t)size, file) != (size_t)size)
        die(path, "cannot be read");
    fclose(file);
    (*keys)[size] = '\0';
    for (char *end = *keys; (end = strchr(end, '\n')) != NULL;)
        *end++ = '\0';
    return (size_t)size;
}

int main(int argc, char **argv)
{
    char path[1024];
    void (*each)(const char *) = look;

    if (argc == 4 && strcmp(argv[1], "open") == 0) {
        double began = now();

        start(argv[2]);
        look(argv[3]);
        printf("%f\n", (now() - began) * 1e3);
        return 0;
    }
    if (argc != 3) {
        fprintf(stderr, "usage: %s look CONFIG | ask SOCKET | open CONFIG KEY\n", argv[0]);
        return 64;
    }
    if (strcmp(argv[1], "ask") == 0) {
        dial(argv[2]);
        each = ask;
    } else {
        start(argv[2]);
    }
    while (fgets(path, sizeof path, stdin) != NULL) {
        char *keys, *key;
        size_t size;
        double began;

        path[strcspn(path, "\n")] = '\0';
        size = read_keys(path, &keys);
        began = now();
        for (key = keys; key < keys + size; key += strlen(key) + 1)
            each(key);
        printf("%.9f\n", now() - began);
        fflush(stdout);
        free(keys);
    }
    return 0;
}
