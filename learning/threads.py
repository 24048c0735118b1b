"""Single-threaded BLAS, so that the bytes of a product do not depend on the number of cores."""

from threadpoolctl import threadpool_limits


def one_thread() -> threadpool_limits:
    """Limit BLAS and OpenMP of this process to one thread, in a `with` or as a decorator."""
    return threadpool_limits(1)
