# syntax=docker/dockerfile:1
# The scripts with what they need, for CPUs and NVIDIA GPUs (docs/docker.md).
#
#   docker build --tag metric-learning .
#   docker run --rm --gpus all --volume "$PWD/output:/app/output" metric-learning python train_elem.py --loss_name=arcmargin
#
# Build arguments:
#   TORCH_INDEX  where torch comes from besides pip's own index: the address that PyTorch's "Get started" page names for CPU
#                (some gigabytes smaller) or for a version of CUDA. Left open, it is pip's own: for CPUs and current GPUs.
#   EXTRAS       names of requirements/NAME.txt
#   PYTHON, UID  the version of Python; the number of the user that it all runs as
ARG PYTHON=3.11
ARG UID=1000

FROM python:${PYTHON}-slim-bookworm AS base
ARG UID
RUN useradd --create-home --uid "${UID}" learner \
    && install --directory --owner=learner /opt/venv /app /app/output
ENV PATH=/opt/venv/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1
USER ${UID}
WORKDIR /app
# From what changes seldom to what changes often: torch is fetched again only where requirements.txt has changed.
COPY --chown=learner requirements.txt ./
ARG TORCH_INDEX=
RUN python -m venv /opt/venv \
    && PIP_EXTRA_INDEX_URL="${TORCH_INDEX}" python -m pip install -r requirements.txt

# With all that its tests need: docker build --target=test, and run it to run them.
FROM base AS test
ARG UID
USER 0
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends chromium chromium-driver curl git make unzip \
    && rm -rf /var/lib/apt/lists/*
USER ${UID}
COPY --chown=learner Makefile ./
COPY --chown=learner requirements/ requirements/
RUN make test_packages PYTHON=python
COPY --chown=learner . .
CMD ["make", "test", "PYTHON=python"]

FROM base AS app
ARG EXTRAS="demo models speed serve verification export"
COPY --chown=learner requirements/ requirements/
RUN for extra in ${EXTRAS}; do python -m pip install -r "requirements/${extra}.txt" || exit 1; done
COPY --chown=learner . .
CMD ["python", "train_elem.py", "--help"]
