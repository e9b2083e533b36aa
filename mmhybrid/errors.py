"""How a run says that it cannot go on."""


class UserError(Exception):
    """A run cannot start or go on; the message says why and what to do.

    The tools print the message alone, after ``error:``, and exit with 1.
    """

    def __init__(self, message: str) -> None:
        # PyTorch hands on what a worker of a data loader raised as a text with its traceback.
        super().__init__(message.rpartition("mmhybrid.errors.UserError: ")[2].rstrip())
