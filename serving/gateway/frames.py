"""What an error holds on to."""

from __future__ import annotations


def forget_frames(error: BaseException) -> None:
    """The error, and what has caused it, hold no frame any more, nor each other.

    For errors that nobody will look into, but that live on while their client is told. Their frames
    hold whatever the request had, such as its body, and where an error stands in a frame of its own
    (as one does that is raised for a second time) until the garbage collector comes.
    """
    causes = (error.__cause__, error.__context__)
    error.__traceback__ = error.__cause__ = error.__context__ = None
    for cause in causes:
        if cause is not None:
            forget_frames(cause)
