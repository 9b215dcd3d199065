"""Entry points."""

import os
import signal
import sys

if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Python looks for an entry point here, which it is to run. What comes next is imports, of which a Ctrl-C makes a
    # traceback, or an error of an extension that swallows it, and nothing is begun yet that would have to be ended in
    # order: `command_line.raise_interrupts` says when there is.
    signal.signal(signal.SIGINT, lambda _number, _frame: os._exit(130))
