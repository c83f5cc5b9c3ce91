"""A model's header: all that its manifest says besides the weights and who vouches for them."""

from dataclasses import MISSING, fields

from warren_shared.protocol.messages import ModelManifest
from warren_shared.protocol.model_header import ModelHeader

OF_WEIGHTS = {
    *("kind", "transfer", "size_bytes", "digest", "tensors", "content", "signatures"),
    *("base", "weights_digest"),
}


def test_a_field_that_a_manifest_gets_is_one_of_the_header_too() -> None:
    assert [f.name for f in fields(ModelHeader)] == [
        name for name in ModelManifest.model_fields if name not in OF_WEIGHTS
    ]


def test_what_a_header_does_not_say_is_what_a_manifest_does_not() -> None:
    for field in fields(ModelHeader):
        of_manifest = ModelManifest.model_fields[field.name]
        if field.default_factory is not MISSING:
            assert field.default_factory() == of_manifest.default
        elif field.default is not MISSING:
            assert field.default == of_manifest.default
        else:
            assert of_manifest.is_required()
