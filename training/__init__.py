"""Training of a DCGAN."""

import signal

# What terminals, services and batch systems send before they kill.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
