"""The one exception type that is meant to be read by a user."""


class MixOfShowError(ValueError):
    """Something a user can put right: the text names the input or file, its value, and the remedy."""
