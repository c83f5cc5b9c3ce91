# One image for both sides: `coordinator` (no machine-learning framework, also runs broker-config)
# and `client` (with TensorFlow, and the examples as tasks).
FROM python:3.11-slim AS base
ENV PYTHONUNBUFFERED=1
# A named volume takes owner and mode from the folder it first covers: made here, so that the
# workers, who are not root, may write their checkpoints and read their bundles.
RUN useradd --create-home --uid 10001 warren \
    && install -d -o warren -g warren -m 0700 /run/warren /var/lib/warren
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY broker_config broker_config
COPY shared shared
COPY coordinator_worker coordinator_worker
COPY client_worker client_worker

FROM base AS coordinator
RUN --mount=type=cache,target=/root/.cache/pip pip install -c constraints.txt .
USER warren
CMD ["coordinator-worker", "--help"]

FROM base AS client
ARG EXTRA=examples
RUN --mount=type=cache,target=/root/.cache/pip pip install -c constraints.txt ".[${EXTRA}]"
COPY examples examples
# Tasks are imported by path, such as examples.breast_cancer.task:clinic.
ENV PYTHONPATH=/app TF_CPP_MIN_LOG_LEVEL=2
USER warren
CMD ["client-worker", "--help"]
