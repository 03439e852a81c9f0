/*
 * Loads the library as Postfix loads a table, and asks it.
 *
 * Usage: postfix LIBRARY NAME [OPEN_FLAGS]
 *
 * Opens murder:NAME and looks up each line of standard input. The line `!changed` asks whether Postfix would
 * restart the process. Prints the table's answers and log lines. Exits with 1 if the table breaks a rule that
 * Postfix relies on.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>

/* The table of releases from 3.11 on; in others it ends with file_b64. */
typedef struct DICT {
    char *type;
    char *name;
    int flags;
    const char *(*lookup)(struct DICT *, const char *);
    int (*update)(struct DICT *, const char *, const char *);
    int (*del)(struct DICT *, const char *);
    int (*sequence)(struct DICT *, int, const char **, const char **);
    int (*lock)(struct DICT *, int);
    void (*close)(struct DICT *);
    int lock_type;
    int lock_fd;
    int stat_fd;
    time_t mtime;
    void *fold_buf;
    struct {
        int status;
        uid_t uid;
    } owner;
    int error;
    void *jbuf;
    void *utf8_backup;
    void *file_buf;
    void *file_b64;
    char *reg_name;
    void (*saved_close)(struct DICT *);
} DICT;

#define FIXED (1 << 4)
#define PATTERN (1 << 5)
#define MULTI_WRITER (1 << 18)
#define SURROGATE (1 << 22)

/* Flags of trivial-rewrite: UTF8_REQUEST, FOLD_FIX, NO_REGSUB, LOCK. */
#define ASKED_FOR (1 << 19 | 1 << 14 | 1 << 11 | 1 << 6)

static int living;
static DICT made;

static void must(int holds, const char *what)
{
    if (!holds) {
        printf("broken: %s\n", what);
        exit(1);
    }
}

static void say(const char *level, const char *format, va_list arguments)
{
    printf("%s: ", level);
    vprintf(format, arguments);
    printf("\n");
}

/* Symbols that the library looks up in the program that loads it. */
void msg_warn(const char *format, ...);
DICT *dict_alloc(const char *type, const char *name, ssize_t size);
void dict_free(DICT *dict);
DICT *dict_surrogate(const char *type, const char *name, int open_flags, int dict_flags,
                     const char *format, ...);

void msg_warn(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    say("warning", format, arguments);
    va_end(arguments);
}

DICT *dict_alloc(const char *type, const char *name, ssize_t size)
{
    DICT *dict = malloc((size_t)size);

    must(dict != NULL && size >= (ssize_t)sizeof *dict, "room for the table");
    memset(dict, 0xa5, (size_t)size);
    memset(dict, 0, sizeof *dict);
    dict->type = strdup(type);
    dict->name = strdup(name);
    dict->lock_fd = dict->stat_fd = -1;
    dict->owner.status = -1;
    dict->owner.uid = INT_MAX;
    /* Releases from 3.11 on store a pointer there. */
    dict->reg_name = strdup("registered");
    living++;
    made = *dict;
    return dict;
}

void dict_free(DICT *dict)
{
    must(strcmp(dict->reg_name, "registered") == 0, "what is Postfix' is left alone");
    free(dict->type);
    free(dict->name);
    free(dict->reg_name);
    free(dict);
    living--;
}

static const char *fail(DICT *dict, const char *key)
{
    (void)key;
    dict->error = -1;
    return NULL;
}

DICT *dict_surrogate(const char *type, const char *name, int open_flags, int dict_flags,
                     const char *format, ...)
{
    DICT *dict = dict_alloc(type, name, sizeof(DICT));
    va_list arguments;

    (void)open_flags;
    va_start(arguments, format);
    say("error", format, arguments);
    va_end(arguments);
    dict->flags = dict_flags | PATTERN | SURROGATE;
    dict->lookup = fail;
    dict->close = dict_free;
    return dict;
}

static void look_up(DICT *dict, const char *key)
{
    const char *found;

    dict->error = 77;
    found = dict->lookup(dict, key);
    if (found != NULL) {
        must(dict->error == 0, "an answer is no error");
        must(*found != '\0', "no answer is empty");
        printf("found: %s\n", found);
    } else {
        must(dict->error == 0 || dict->error == -1, "an error is one to try again after");
        printf(dict->error == 0 ? "not found\n" : "temporary\n");
    }
}

static int is_changed(const DICT *dict)
{
    struct stat file;

    if (dict->stat_fd < 0)
        return 0;
    must(dict->mtime != 0, "Postfix warns of a time that is none");
    must(fstat(dict->stat_fd, &file) == 0, "Postfix ends where it cannot look at the file");
    return file.st_nlink == 0 || (!(dict->flags & MULTI_WRITER) && file.st_mtime != dict->mtime);
}

int main(int argc, char **argv)
{
    DICT *(*open_table)(const char *, int, int);
    void *library, *symbol;
    DICT *dict;
    char key[4096];

    if (argc < 3)
        return 2;
    library = dlopen(argv[1], RTLD_NOW);
    if (library == NULL || (symbol = dlsym(library, "dict_murder_open")) == NULL) {
        printf("%s\n", dlerror());
        return 1;
    }
    memcpy(&open_table, &symbol, sizeof open_table);
    dict = open_table(argv[2], argc > 3 ? atoi(argv[3]) : O_RDONLY, ASKED_FOR);
    must(dict != NULL && living == 1, "one table is made");
    must((dict->flags & ASKED_FOR) == ASKED_FOR, "the flags that were asked for are set");
    must((dict->flags & PATTERN) && !(dict->flags & FIXED), "a key is the whole address");
    must(strcmp(dict->type, "murder") == 0 && strcmp(dict->name, argv[2]) == 0, "its name");
    must(dict->update == made.update && dict->lock == made.lock && dict->lock_fd == -1
             && dict->jbuf == NULL && dict->utf8_backup == NULL,
         "what is Postfix' is left alone");
    printf(dict->flags & SURROGATE ? "surrogate\n" : "open\n");
    fflush(stdout);
    while (fgets(key, sizeof key, stdin) != NULL) {
        key[strcspn(key, "\n")] = '\0';
        if (strcmp(key, "!changed") == 0)
            printf(is_changed(dict) ? "changed\n" : "unchanged\n");
        else
            look_up(dict, key);
        fflush(stdout);
    }
    dict->close(dict);
    must(living == 0, "a table that is closed is freed");
    dlclose(library);
    return 0;
}
