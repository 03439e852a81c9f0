/*
 * Minimal server on a unix socket: it writes back each read. Peer of socketmap round trips.
 *
 *   echo PATH thread         one thread per connection: read, write
 *   echo PATH epoll          one thread for all connections: epoll_wait, read, write
 *   echo PATH thread LIST    as the first, with a read of the file before each write: the minimum cost of
 *                            an answer from a file, by any search
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int list = -1;
static off_t length;

/* One read of a kilobyte, somewhere in the list. */
static void look(void)
{
    static __thread unsigned long long random = 1;
    char record[1024];

    random = random * 6364136223846793005ULL + 1442695040888963407ULL;
    if (pread(list, record, sizeof record, (off_t)(random >> 16) % length) < 0)
        die("pread");
}

/* Whether the connection goes on. */
static int once(int fd)
{
    char buf[4096];
    ssize_t n = read(fd, buf, sizeof buf);

    if (list >= 0)
        look();
    return n > 0 && write(fd, buf, (size_t)n) == n;
}

static void *serve(void *arg)
{
    int fd = (int)(long)arg;

    while (once(fd))
        ;
    close(fd);
    return NULL;
}

static void threads(int listener)
{
    for (;;) {
        pthread_t thread;
        int fd = accept(listener, NULL, NULL);

        if (fd < 0)
            die("accept");
        if (pthread_create(&thread, NULL, serve, (void *)(long)fd) != 0)
            die("pthread_create");
        pthread_detach(thread);
    }
}

static void epoll(int listener)
{
    struct epoll_event event = { .events = EPOLLIN, .data.fd = listener }, events[256];
    int poll = epoll_create1(0);

    if (poll < 0 || epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event) < 0)
        die("epoll");
    for (;;) {
        int n = epoll_wait(poll, events, 256, -1);

        if (n < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;

            if (fd != listener) {
                if (!once(fd))
                    close(fd);
                continue;
            }
            if ((event.data.fd = accept(listener, NULL, NULL)) < 0)
                die("accept");
            if (epoll_ctl(poll, EPOLL_CTL_ADD, event.data.fd, &event) < 0)
                die("epoll_ctl");
        }
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);

    if (argc < 3 || strlen(argv[1]) >= sizeof address.sun_path) {
        fprintf(stderr, "usage: %s PATH thread|epoll [LIST]\n", argv[0]);
        return 64;
    }
    if (argc > 3) {
        struct stat status;

        if ((list = open(argv[3], O_RDONLY)) < 0 || fstat(list, &status) < 0 || status.st_size == 0)
            die(argv[3]);
        length = status.st_size;
    }
    strcpy(address.sun_path, argv[1]);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0
        || listen(listener, 1024) < 0)
        die(argv[1]);
    if (strcmp(argv[2], "epoll") == 0)
        epoll(listener);
    else
        threads(listener);
    return 0;
}
