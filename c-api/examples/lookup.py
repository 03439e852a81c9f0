#!/usr/bin/env python3
"""Prints the backends of these recipients. Usage: lookup.py [-c CONFIG] RECIPIENT...

Needs only Python 3 and libmurder_route.so.0.
"""

import ctypes
import sys

DEFERRED, DELIVER, UNKNOWN, REFUSED, FOREIGN = range(101, 106)
OK = 0
ERROR_SIZE = 512


class Decision(ctypes.Structure):
    """mr_decision of murder_route.h."""

    _fields_ = [
        ("size", ctypes.c_size_t),
        ("outcome", ctypes.c_uint32),
        ("detail", ctypes.c_uint32),
        ("source", ctypes.c_uint32),
        ("port", ctypes.c_uint32),
        ("age", ctypes.c_int64),
        ("recipient", ctypes.c_char_p),
        ("host", ctypes.c_char_p),
        ("socket", ctypes.c_char_p),
        ("transport", ctypes.c_char_p),
        ("mailbox", ctypes.c_char_p),
        ("server", ctypes.c_char_p),
        ("partition", ctypes.c_char_p),
        ("reason", ctypes.c_char_p),
        ("memory", ctypes.c_void_p),
    ]


library = ctypes.CDLL("libmurder_route.so.0")
library.mr_open.argtypes = [
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.c_char_p,
    ctypes.c_size_t,
]
library.mr_lookup.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(Decision)]
library.mr_decision_clear.argtypes = [ctypes.POINTER(Decision)]
library.mr_decision_clear.restype = None
library.mr_close.argtypes = [ctypes.c_void_p]
library.mr_close.restype = None
library.mr_outcome_name.argtypes = [ctypes.c_uint32]
library.mr_outcome_name.restype = ctypes.c_char_p


class Router:
    """Looks recipients up by a configuration file, /etc/murder-route.toml if none is named."""

    def __init__(self, config=None):
        self.router = ctypes.c_void_p()
        error = ctypes.create_string_buffer(ERROR_SIZE)
        config = None if config is None else config.encode()
        if library.mr_open(config, ctypes.byref(self.router), error, len(error)) != OK:
            raise OSError(error.value.decode(errors="replace"))

    def lookup(self, recipient):
        """(outcome, its name, where or why)"""
        decision = Decision(size=ctypes.sizeof(Decision))
        library.mr_lookup(self.router, recipient.encode(), ctypes.byref(decision))
        try:
            outcome = decision.outcome
            if outcome == DELIVER:
                where = decision.socket
                if decision.host is not None:
                    where = b"%s port %d" % (decision.host, decision.port)
                text = f"{where.decode()}, RCPT TO:<{decision.recipient.decode()}>"
            else:
                text = decision.reason.decode(errors="replace")
            return outcome, library.mr_outcome_name(outcome).decode(), text
        finally:
            library.mr_decision_clear(ctypes.byref(decision))

    def close(self):
        library.mr_close(self.router)
        self.router = ctypes.c_void_p()


def main(arguments):
    config = None
    if arguments[:1] == ["-c"]:
        config, arguments = arguments[1], arguments[2:]
    try:
        router = Router(config)
    except OSError as error:
        print(f"lookup.py: {error}", file=sys.stderr)
        return 78  # EX_CONFIG
    status = 0
    for recipient in arguments:
        outcome, name, text = router.lookup(recipient)
        if outcome == DELIVER:
            print(f"{recipient}: {text}")
        else:
            print(f"{recipient}: {name}: {text}")
            if outcome not in (UNKNOWN, REFUSED, FOREIGN):
                status = 75  # EX_TEMPFAIL
            elif status == 0:
                status = 1
    router.close()
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
