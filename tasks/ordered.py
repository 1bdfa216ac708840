"""Work side by side with results in order and a bound on what is in flight."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(
    function: Callable[[T], R], values: Iterable[T], threads: int = 8, window: int = 0
) -> Iterator[R]:
    """`ordered_map` in threads of its own, with twice as many values begun unless told."""
    with ThreadPoolExecutor(threads) as pool:
        yield from ordered_map(pool, function, values, window or 2 * threads)


def ordered_map(
    pool: Executor, function: Callable[[T], R], values: Iterable[T], window: int
) -> Iterator[R]:
    """Like map(), run in `pool`, with at most `window` values begun and not yet taken."""
    waiting: deque[Future[R]] = deque()
    try:
        for value in values:
            waiting.append(pool.submit(function, value))
            if len(waiting) >= window:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
