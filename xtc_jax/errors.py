"""The exceptions a person is meant to read."""


class UserError(Exception):
    """Bad input: one line that names the file or key and says what to do about it.

    The ``xtc`` command prints the message alone and exits with status 2; a library caller sees an
    ordinary exception.
    """


class Preempted(BaseException):
    """SIGTERM has come, and what there was to save is saved. The ``xtc`` command exits with status 75: run it again.

    Like ``KeyboardInterrupt`` it may come anywhere, and no ``except Exception`` catches it.
    """
