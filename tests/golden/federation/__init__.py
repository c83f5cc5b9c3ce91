"""A short run with every kind of round, and all that is said of it: what the golden files are of.

The files beside this one were written by ``python -m tests.golden.federation FOLDER`` at commit
d07ed53, the last at which a round's record and an event were dictionaries (``round_closed`` in
``run.py`` made such a dictionary then). They are never changed: a checkpoint, an audit log and
events as they were have to be read, and written in the same bytes, by what follows.

- ``a.checkpoint``, ``audit.jsonl``, ``version-6.safetensors``: the coordinator's folder
- ``history.jsonl``, ``history.csv``: what `coordinator-worker history` prints of it
- ``events.jsonl``: the exchange ``event``, a message a line; ``state.json``: the queue
  ``event.state`` after the last of them
"""
