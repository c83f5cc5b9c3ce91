"""The examples' data and models."""

import os
from pathlib import Path

import numpy as np
import pytest

from warren_examples.breast_cancer import task as breast_cancer
from warren_examples.heart_disease import HOSPITALS
from warren_examples.heart_disease import task as heart_disease
from warren_examples.language_adapters import SITES, text
from warren_examples.linear_regression.__main__ import explained, federated, least_squares
from warren_examples.linear_regression.task import clinics
from warren_examples.stage.study import Site


def rows(site: Site) -> list[bytes]:
    return [row.tobytes() for records in (site.train, site.held_out) for row in records[0]]


@pytest.mark.parametrize("seed", range(5))
def test_every_patient_is_at_one_clinic_and_either_trained_on_or_held_out(seed: int) -> None:
    sites = breast_cancer.sites(seed)
    everybody = [row for site in sites for row in rows(site)]
    assert len(everybody) == len(set(everybody)) == 569
    for site in sites:
        for _, labels in (site.train, site.held_out):
            assert set(labels) == {0.0, 1.0}


def test_the_clinics_differ_in_size_and_case_mix() -> None:
    sites = breast_cancer.sites(0)
    assert [len(rows(site)) for site in sites] == [238, 160, 108, 63]
    ill = [site.train[1].mean() for site in sites]
    assert ill == sorted(ill)
    assert ill[0] < 0.2
    assert ill[-1] > 0.8


def test_a_seed_decides_who_is_held_out_and_not_who_is_at_which_clinic() -> None:
    for first, again, other in zip(
        breast_cancer.sites(0), breast_cancer.sites.__wrapped__(0), breast_cancer.sites(1),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(first.train[0], again.train[0])
        assert sorted(rows(first)) == sorted(rows(other))
        assert rows(first) != rows(other)


def test_a_replica_of_a_fleet_takes_the_clinic_that_its_shard_falls_to() -> None:
    by_shard = breast_cancer.clinic(shard=6)
    np.testing.assert_array_equal(by_shard.data[0], breast_cancer.sites(0)[2].train[0])


def test_federated_linear_regression_ends_at_the_closed_form_of_the_pooled_data() -> None:
    parts = clinics()
    ours, exact = federated(), least_squares(parts)
    for found, expected in zip(ours, exact, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert explained(ours, parts) == pytest.approx(explained(exact, parts), abs=1e-6)
    assert explained(exact, parts) > 0.45


@pytest.fixture
def hospitals() -> str:
    folder = os.environ.get("WARREN_HEART_DISEASE_DATA")
    if folder is None:
        pytest.skip("WARREN_HEART_DISEASE_DATA names no folder with the heart disease data")
    return folder  # set, and nothing there: a failure, not a skip


def test_the_hospitals_have_the_patients_that_flamby_counts(hospitals: str) -> None:
    sites = heart_disease.sites(0, hospitals)
    assert [site.name for site in sites] == list(HOSPITALS)
    assert [len(rows(site)) for site in sites] == [303, 261, 46, 130]


def test_a_hospitals_task_trains_on_its_own_patients_only(hospitals: str) -> None:
    task = heart_disease.clinic(hospitals, "va", seed=3)
    site = heart_disease.sites(3, hospitals)[3]
    np.testing.assert_array_equal(task.data[0], site.train[0])
    np.testing.assert_array_equal(task.validation[0], site.held_out[0])


def test_missing_files_are_named_with_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"processed\.cleveland\.data: get the data set"):
        heart_disease.clinic(str(tmp_path))
    with pytest.raises(ValueError, match="no hospital mayo"):
        heart_disease.clinic(str(tmp_path), "mayo")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    words = "what it does, told at some length, with its arguments and what it returns"
    (tmp_path / "b.py").write_text(
        f'"""Module b: {words} in b."""\n\n\ndef f():\n    """Short."""\n'
    )
    (tmp_path / "a.py").write_text(
        f'class C:\n    """Class C: {words} in a."""\n\n    async def f(self):\n'
        f'        """Module b: {words} in b."""\n'
    )
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "c.py").write_text(f'"""Not this one: {words} in a test."""\n')
    return tmp_path


def test_docstrings_are_read_from_source_in_one_order_and_each_once(package: Path) -> None:
    found = text.docstrings(package)
    assert [one.partition(":")[0] for one in found] == ["Class C", "Module b"]


def test_a_piece_of_text_and_its_targets_are_one_byte_apart() -> None:
    x, y = text.pieces("ä" + "abc" * 100)
    assert x.shape == y.shape == (4, text.CONTEXT)
    assert x[0, :4].tolist() == [ord(c) for c in "?abc"]
    np.testing.assert_array_equal(x.ravel()[1:], y.ravel()[:-1])


def test_a_sites_text_is_read_alike_and_what_it_holds_out_is_other_text() -> None:
    for name in SITES:
        (x, y), (held_out, _) = text.site(name)
        again = text.site.__wrapped__(name)[0][0]
        np.testing.assert_array_equal(x, again)
        assert x.shape == y.shape == (text.TRAIN, text.CONTEXT)
        assert len(held_out) == text.HELD_OUT
        pieces = {row.tobytes() for row in x}
        assert sum(row.tobytes() in pieces for row in held_out) < text.HELD_OUT / 100
