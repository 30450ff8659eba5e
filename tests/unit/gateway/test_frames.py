"""An error that is forgotten holds nothing of the way it has come, whatever it has come by."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest

from serving.gateway.frames import forget_frames


class Body:
    """Something that a request holds."""


def plainly(body: Body) -> None:
    raise KeyError


def for_a_cause(body: Body) -> None:
    try:
        plainly(body)
    except KeyError as error:
        raise ValueError from error


def while_another_is_handled(body: Body) -> None:
    try:
        plainly(body)
    except KeyError:
        raise ValueError from None


def for_the_second_time(body: Body) -> None:
    first = ValueError()
    try:
        raise first
    except ValueError:
        raise first  # noqa: B904 (what is under test)


def for_each_other(body: Body) -> None:
    first, second = ValueError(), KeyError()
    try:
        raise first from second
    except ValueError:
        raise second from first


@pytest.mark.parametrize(
    "fail",
    [plainly, for_a_cause, while_another_is_handled, for_the_second_time, for_each_other],
)
def test_a_forgotten_error_holds_no_frame(fail: Callable[[Body], None]) -> None:
    body = Body()
    held = weakref.ref(body)
    kept: Exception | None = None
    gc.disable()
    try:
        try:
            fail(body)
        except (KeyError, ValueError) as error:
            kept = error
        del body
        assert held() is not None
        assert kept is not None
        forget_frames(kept)
        assert held() is None
    finally:
        gc.enable()
