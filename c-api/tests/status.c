/*
 * Prints the health of a configuration: the states of the whole, the mailbox list, the replica and the
 * daemon as numbers, and the reasons, one per line. Arguments: the configuration.
 */
#include "opened.h"

int main(int argc, char **argv)
{
    mr_status status = MR_STATUS_INIT;
    mr_router *router;

    CHECK(argc == 2);
    router = opened(argv[1]);
    CHECK(mr_check(router, 5000, &status) == MR_OK);
    printf("%d %d %d %d\n%s\n%s\n%s\n", (int)status.overall, (int)status.mailboxes_db,
           (int)status.replica, (int)status.daemon, status.mailboxes_db_reason,
           status.replica_reason, status.daemon_reason);
    mr_status_clear(&status);
    mr_close(router);
    return 0;
}
