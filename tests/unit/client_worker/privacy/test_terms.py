import pytest

from client_worker.privacy.terms import PrivacyLimit, RecordPrivacy
from warren_shared.errors import ConfigError
from warren_shared.privacy.accountant import delta_of

TERMS = "epsilon=1,delta=1e-5,steps=30,examples=200"


def test_the_steps_together_are_the_promise() -> None:
    terms = RecordPrivacy.parse(f"{TERMS},clip=2")
    assert terms.clip == 2
    assert delta_of(terms.epsilon, terms.mu_of_step * 30**0.5) == pytest.approx(terms.delta)
    assert RecordPrivacy.parse(str(terms)) == terms


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("epsilon=1,delta=1e-5,examples=200", "it needs steps, as in steps=VALUE"),
        ("epsilon=1,delta=1e-5,steps=30", "it needs examples, as in examples=VALUE"),
        ("epsilon=0,delta=1e-5,steps=30,examples=200", "epsilon is 0"),
        ("epsilon=nan,delta=1e-5,steps=30,examples=200", "epsilon is nan"),
        ("epsilon=101,delta=1e-5,steps=30,examples=200", "beyond 100 it means nothing"),
        ("epsilon=1,delta=0,steps=30,examples=200", "delta is 0; it is a probability"),
        ("epsilon=1,delta=0.01,steps=30,examples=200", "published as it is"),
        ("epsilon=1,delta=1e-5,steps=0,examples=200", "steps is 0"),
        ("epsilon=1,delta=1e-5,steps=1e9,examples=200", "steps: write a whole number"),
        ("epsilon=1,delta=1e-5,steps=30,examples=0", "examples is 0"),
        (f"{TERMS},clip=0", "clip is 0"),
        (f"{TERMS},clip=inf", "clip is inf"),
        (f"{TERMS},clip=nan", "clip is nan"),
        (f"{TERMS},clip=1,clip=2", "clip is there twice"),
        (f"{TERMS},clop=1", "did you mean clip"),
        ("1", "it takes epsilon, delta, steps, examples, clip; write PARAMETER=VALUE"),
        ("epsilon=1e-6,delta=1e-9,steps=1000000,examples=200", "nothing but noise"),
    ],
)
def test_bad_terms_are_one_line_with_the_reason(spec: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        RecordPrivacy.parse(spec)
    assert str(caught.value).startswith(f"--record-privacy {spec}: ")
    assert "\n" not in str(caught.value)


def test_a_bad_limit_is_one_line_with_the_reason() -> None:
    with pytest.raises(ConfigError, match=r"^--privacy-limit epsilon=8: it needs delta"):
        PrivacyLimit.parse("epsilon=8")
    with pytest.raises(ConfigError, match="delta is 2; it is a probability"):
        PrivacyLimit.parse("epsilon=8,delta=2")
