"""Work side by side with results in order and a bound on what is in flight."""

import itertools
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:  # with it comes the machinery of logging, for who may never need either
    from concurrent.futures import Future

T = TypeVar("T")
R = TypeVar("R")
K = TypeVar("K", bound=Hashable)


def side_by_side(
    function: Callable[[T], R], values: Iterable[T], threads: int = 8, window: int = 0
) -> Iterator[R]:
    """Like map(), in threads of its own.

    At most `window` values are begun and not yet taken, twice as many as threads unless told.
    """
    from concurrent.futures import ThreadPoolExecutor

    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for value in values:
                waiting.append(pool.submit(function, value))
                if len(waiting) >= (window or 2 * threads):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def asked_once(
    function: Callable[[T], R], values: Iterable[T], key: Callable[[T], K], threads: int, size: int
) -> Iterator[tuple[T, R | None]]:
    """Each value with its result, in order; with None where its key is None.

    They are taken `size` at a time: values of one key in a row have one result in common.
    """
    from concurrent.futures import ThreadPoolExecutor

    rest = iter(values)
    begun: dict[K, Future[R]] = {}
    with ThreadPoolExecutor(threads) as pool:
        while some := [(key(value), value) for value in itertools.islice(rest, size)]:
            named = {name: value for name, value in some if name is not None}
            begun = {n: begun.get(n) or pool.submit(function, value) for n, value in named.items()}
            for name, value in some:
                yield value, None if name is None else begun[name].result()
