"""How a command of `srpo` ends when it fails."""

import errno

NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


class Failed(Exception):  # noqa: N818
    """A failure that is told in full already: its text is the last the user reads, ``code`` the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
