import pytest

from minitok.stages._common import photograph_features


@pytest.fixture(autouse=True)
def own_photographs():
    """Each test has the photographs that it loads itself, and leaves none to the next."""
    photograph_features.cache_clear()
    yield
    photograph_features.cache_clear()
