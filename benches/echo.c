/*
 * Minimal server on a unix socket, with a thread for each connection: it reads, reads a kilobyte somewhere in
 * the list, and writes back what it has read. This is the minimum cost of an answer from a file, by any search.
 *
 *   echo PATH LIST
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

int main(int argc, char **argv)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    struct stat status;

    if (argc != 3 || strlen(argv[1]) >= sizeof address.sun_path) {
        fprintf(stderr, "usage: %s PATH LIST\n", argv[0]);
        return 64;
    }
    if ((list = open(argv[2], O_RDONLY)) < 0 || fstat(list, &status) < 0 || status.st_size == 0)
        die(argv[2]);
    length = status.st_size;
    strcpy(address.sun_path, argv[1]);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0
        || listen(listener, 1024) < 0)
        die(argv[1]);
    threads(listener);
    return 0;
}
