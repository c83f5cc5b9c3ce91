"""Seeds that wait: whose they are, which of two counts, and that no user keeps out the others."""

from keeper_worker.sums.seeds import Seeds
from tests.support.masking import FEDERATION, seed_of, transfer_of


def test_a_seed_that_is_sent_twice_is_there_once_and_the_older_delivery_is_acknowledged() -> None:
    seeds = Seeds(FEDERATION)
    assert seeds.add(seed_of("alfa"), "alfa", 1).acknowledged == ()
    taken = seeds.add(seed_of("alfa"), "alfa", 2)
    assert (taken.acknowledged, taken.dropped) == ((1,), "")
    assert seeds.drop([("alfa", transfer_of("alfa", 0))]) == [2]
    assert len(seeds) == 0


def test_of_two_seeds_for_one_update_the_first_counts() -> None:
    seeds = Seeds(FEDERATION)
    seeds.add(seed_of("alfa"), "alfa", 1)
    taken = seeds.add(seed_of("alfa", seed="00" * 32), "alfa", 2)
    assert (taken.acknowledged, taken.dropped) == ((2,), "transfer")
    kept = seeds.get("alfa", transfer_of("alfa", 0))
    assert kept is not None
    assert kept.seed != bytes(32)


def test_the_same_id_of_another_client_is_another_update() -> None:
    seeds = Seeds(FEDERATION)
    seeds.add(seed_of("alfa"), "alfa", 1)
    seeds.add(seed_of("bravo", transfer=transfer_of("alfa", 0)), "bravo", 2)
    assert len(seeds) == 2


def test_a_seed_of_another_federation_is_dropped() -> None:
    taken = Seeds(FEDERATION).add(seed_of("alfa", federation="g"), "alfa", 1)
    assert (taken.acknowledged, taken.dropped) == ((1,), "federation")


def test_who_sends_most_is_pushed_out_and_not_what_is_held() -> None:
    seeds = Seeds(FEDERATION, most=10)
    seeds.add(seed_of("alfa"), "alfa", 1)
    for tag in range(2, 11):
        seeds.add(seed_of("bravo", tag), "bravo", tag)
    seeds.hold([("bravo", transfer_of("bravo", 2))])
    dropped = [seeds.add(seed_of("bravo", tag), "bravo", tag) for tag in range(11, 15)]
    assert [taken.acknowledged for taken in dropped] == [(3,), (4,), (5,), (6,)]
    assert {taken.dropped for taken in dropped} == {"flood"}
    assert seeds.add(seed_of("charlie"), "charlie", 15).acknowledged == (7,)
    assert seeds.get("alfa", transfer_of("alfa", 0))
    assert seeds.get("bravo", transfer_of("bravo", 2))
    assert len(seeds) == 10
