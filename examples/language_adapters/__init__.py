"""Four sites of text adapt one small language model: only low-rank adapters travel."""

# The base is trained on what comes with Python and with these; a site has one of SITES.
COMMON = ("scipy", "tensorflow")
SITES = {"numpy": "numpy", "keras": "keras", "scikit-learn": "sklearn", "pydantic": "pydantic"}
