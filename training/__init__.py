"""Training of a DCGAN."""

import signal

# What terminals, services and batch systems send before they kill, of these that the system has.
SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)
