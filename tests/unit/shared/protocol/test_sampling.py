"""Who is drawn: the right share, independently, and the same whenever it is asked."""

from warren_shared.protocol.sampling import is_drawn

CLIENTS = [f"phone.{number}" for number in range(1000)]


def drawn(run: str, version: int, share: float) -> set[str]:
    return {client for client in CLIENTS if is_drawn(run, version, client, share)}


def test_the_share_is_about_right_and_another_set_each_version_and_run() -> None:
    first, second, other = drawn("ab", 1, 0.3), drawn("ab", 2, 0.3), drawn("cd", 1, 0.3)
    for some in (first, second, other):
        assert 240 < len(some) < 360  # four standard deviations
    assert 50 < len(first & second) < 130  # of 1000, 0.3 * 0.3
    assert 50 < len(first & other) < 130


def test_asked_again_it_is_the_same_and_more_participation_adds_to_it() -> None:
    assert drawn("ab", 1, 0.3) == drawn("ab", 1, 0.3)
    assert drawn("ab", 1, 0.3) < drawn("ab", 1, 0.6)


def test_all_are_drawn_from_a_whole_and_hardly_any_from_next_to_nothing() -> None:
    assert drawn("ab", 1, 1.0) == set(CLIENTS)
    assert drawn("ab", 1, 1e-12) == set()
