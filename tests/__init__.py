"""Tests of midstream, one file for each module, and scripted scenarios."""

import signal

# A shell has what it starts in the background ignore Ctrl-C, `nohup` a terminal that is closed, and
# so does whoever is started by that: what is tested with a signal would wait for it for ever. What
# a command heeds it finds out when it is loaded, so this comes before all that loads one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGHUP, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
