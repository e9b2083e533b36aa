"""What a published folder leaves out of configs, records and addresses: tokens and passwords."""

import re
import shlex
from typing import Any

ACCESS = ("backend_args", "file_client_args")  # to storage, of data sets, metrics and steps
# What a name ends in, such as api_key or authToken, but not monkey or custom_keys.
NAMES = (
    "(?:(?<![A-Za-z])|(?<=[a-z])(?=[A-Z]))(?i:(?:auth|api|access)?(?:token|key|password|secret))"
)
NO_SECRET = "(?:True|False|None)$"  # as of with_cls_token


def redacted(value: Any, key: str = "") -> Any:
    """Plain data without access to storage, users and queries of addresses, secrets of commands.

    Args:
        value: Dicts, lists, text and numbers.
        key: That the value has; what has ``"command"`` is a command line.

    Example:
        >>> redacted(["s3://me:pass@bucket/a.pth", "https://a.org/b.pth?token=1"])
        ['s3://bucket/a.pth', 'https://a.org/b.pth']
        >>> redacted("python train.py --cfg-options a.api_key=1 b=2", "command")
        "python train.py --cfg-options 'a.api_key=***' b=2"
    """
    if isinstance(value, dict):
        return {name: redacted(one, name) for name, one in value.items() if name not in ACCESS}
    if isinstance(value, list | tuple):
        return type(value)(redacted(one, key) for one in value)
    if not isinstance(value, str):
        return value
    value = re.sub(r"(?<=://)[^/\s]*@", "", value)
    value = re.sub(r"(://[^\s?]*)\?[^\s'\"#]*", r"\1", value)
    return _masked(value) if key == "command" else value


def _masked(command: str) -> str:
    try:
        words = shlex.split(command)
    except ValueError:  # not written by this package
        words = command.split()
    secret = rf"(?s)({NAMES}['\"]?[=:]\s*)(?!{NO_SECRET}).*"
    masked = [re.sub(secret, r"\1***", word) for word in words]
    for index, word in enumerate(words[:-1], 1):
        if re.fullmatch(rf"--?[\w-]*{NAMES}", word):
            masked[index] = "***"
    return command if masked == words else shlex.join(masked)
