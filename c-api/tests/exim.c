/*
 * Loads the library as Exim's ${dlfunc does, and calls its function.
 *
 * Usage: exim LIBRARY
 *
 * Each line of standard input is a call, with its arguments separated by tabs. After the line `!fork`
 * a child continues and the parent waits for it, as Exim does for a connection.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const NAMES[] = {"OK", "DEFER", "FAIL", "ERROR", "FAIL_FORCED"};

/* Splits a line, and calls the function. */
static void call(int (*function)(unsigned char **, int, unsigned char **), char *line)
{
    unsigned char *arguments[9] = {NULL}, *text = NULL;
    int count = 0, code;
    char *at = line;

    while (count < 8 && at != NULL) {
        arguments[count++] = (unsigned char *)at;
        at = strchr(at, '\t');
        if (at != NULL)
            *at++ = '\0';
    }
    code = function(&text, count, arguments);
    printf("%s: %s\n", code >= 0 && code <= 4 ? NAMES[code] : "?",
           text != NULL ? (char *)text : "(null)");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    int (*function)(unsigned char **, int, unsigned char **);
    void *library, *symbol;
    char line[4096];
    pid_t child;
    int status;

    if (argc < 2)
        return 2;
    library = dlopen(argv[1], RTLD_LAZY);
    if (library == NULL || (symbol = dlsym(library, "murder_route_exim")) == NULL) {
        printf("%s\n", dlerror());
        return 1;
    }
    memcpy(&function, &symbol, sizeof function);
    while (fgets(line, sizeof line, stdin) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        if (strcmp(line, "!fork") != 0) {
            call(function, line);
            continue;
        }
        child = fork();
        if (child < 0)
            return 1;
        if (child > 0) {
            if (waitpid(child, &status, 0) != child || status != 0)
                return 1;
            return 0;
        }
    }
    return 0;
}
