"""The one exception a person is meant to read."""


class UserError(Exception):
    """Bad input: one line that names the file or key and says what to do about it.

    The ``xtc`` command prints the message alone and exits with status 2; a library caller sees an
    ordinary exception.
    """
