# One image for all sides: `coordinator` (no machine-learning framework, also runs broker-config),
# `keeper` (the same, for the third party of secure aggregation) and `client` (with TensorFlow, and
# the examples as tasks).
FROM python:3.11-slim AS base
ENV PYTHONUNBUFFERED=1
# Three users, so that no client reads what is the coordinator's, and neither what is the keeper's.
RUN useradd --create-home --uid 10001 warren && useradd --create-home --uid 10002 client \
    && useradd --create-home --uid 10003 keeper
WORKDIR /app

FROM base AS source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY broker_config broker_config
COPY shared shared
COPY coordinator_worker coordinator_worker
COPY client_worker client_worker
COPY keeper_worker keeper_worker
COPY examples examples
COPY warren_fl warren_fl

# What others make is installed by name and before our source is there: TensorFlow is half a gigabyte,
# and its layer stays as long as pyproject.toml does.
FROM base AS coordinator-packages
COPY pyproject.toml constraints.txt ./
COPY deploy/requirements.py deploy/
RUN --mount=type=cache,target=/root/.cache/pip \
    python deploy/requirements.py > requirements.txt && pip install -c constraints.txt -r requirements.txt

FROM coordinator-packages AS coordinator
COPY --from=source /app /app
RUN --mount=type=cache,target=/root/.cache/pip pip install --no-deps .
# A named volume takes owner and mode from the folder it first covers: made here, so that the
# coordinator, which is not root, may write its checkpoints.
RUN install -d -o warren -g warren -m 0700 /var/lib/warren
USER warren
CMD ["coordinator-worker", "--help"]

# The keeper needs what the coordinator does, and a folder that is not the coordinator's.
FROM coordinator AS keeper
USER root
RUN install -d -o keeper -g keeper -m 0700 /var/lib/warren-keeper
USER keeper
CMD ["keeper-worker", "--help"]

FROM base AS client-packages
ARG EXTRA=demo
COPY pyproject.toml constraints.txt ./
COPY deploy/requirements.py deploy/
RUN --mount=type=cache,target=/root/.cache/pip \
    python deploy/requirements.py ${EXTRA} > requirements.txt && pip install -c constraints.txt -r requirements.txt

FROM client-packages AS client
COPY --from=source /app /app
RUN --mount=type=cache,target=/root/.cache/pip pip install --no-deps .
# Tasks are imported by path, such as warren_examples.breast_cancer.task:clinic.
ENV PYTHONPATH=/app TF_CPP_MIN_LOG_LEVEL=2
USER client
CMD ["client-worker", "--help"]
