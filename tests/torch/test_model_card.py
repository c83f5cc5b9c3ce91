"""Hugging Face's own reader takes the model card, where it is installed: transformers brings it."""

from pathlib import Path

from huggingface_hub import ModelCard

from coordinator_worker.versions.model_card import card
from coordinator_worker.versions.registry import ModelRegistry
from tests.support.runs import federation


def test_the_hubs_reader_finds_what_the_card_tells_it(tmp_path: Path) -> None:
    federation(tmp_path)
    text = card(
        ModelRegistry(tmp_path), "current", names=False, day="2026-01-31",
        license_id="apache-2.0", library="keras",
    )  # fmt: skip
    read = ModelCard(text)
    assert read.data.license == "apache-2.0"
    assert read.data.library_name == "keras"
    assert read.data.tags == ["federated-learning", "warren"]
    assert read.text.lstrip().startswith("# Model card: f, version 6")
