"""The one error that means: what the user gave cannot be used."""


class InputError(ValueError):
    """Bad input, found before expensive work starts; a process that ends by it exits with code 2.

    The message names the thing, the value it had and what would be accepted.
    """


def cause(error: Exception) -> str:
    """Why something could not be read, on one line; the path is left to the message around it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())


def require(condition: bool, name: str, value: object, accepted: str) -> None:
    """Raise :class:`InputError` naming ``name``, its ``value`` and what is ``accepted``, unless ``condition``."""
    if not condition:
        raise InputError(f"{name} is {value!r}: it must be {accepted}")
