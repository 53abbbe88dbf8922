"""The one exception type that is meant to be read by a user."""


class MixOfShowError(Exception):
    """Something a user can put right: the text names the input or file, its value, and the remedy.

    The front end shows the module beside the name: a short one that says whose it is, not where the file lies. A text
    that speaks of a region says "region 'name'" or "region 2", which the editor looks for (web/regions/blame.js).
    """

    __module__ = "mixofshow"

    def __init_subclass__(cls):
        cls.__module__ = MixOfShowError.__module__

    def __reduce__(self):
        return _again, self.args  # by a function that can be imported: the module above cannot


def short(value: object, limit: int = 60) -> str:
    """A value as an error shows it: whatever came from outside, on one short line."""
    try:
        text = repr(value)
    except ValueError:  # an integer with thousands of digits
        text = "a huge number"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _again(*args: object) -> MixOfShowError:
    return MixOfShowError(*args)
