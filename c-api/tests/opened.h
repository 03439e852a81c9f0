#ifndef OPENED_H
#define OPENED_H

#include "check.h"

/* Opens a router by a configuration file. Fails the test on an error. */
static mr_router *opened(const char *config)
{
    char error[MR_ERROR_SIZE];
    mr_router *router = NULL;

    if (mr_open(config, &router, error, sizeof error) != MR_OK) {
        fprintf(stderr, "%s: %s\n", config, error);
        exit(1);
    }
    CHECK(router != NULL && error[0] == '\0');
    return router;
}

#endif
