# wisesr in a container. Build it in the repository:
#
#   docker build -t wisesr .                                 # trains and predicts on a CPU
#   docker build -t wisesr --build-arg VARIANT=gpu .         # on NVIDIA GPUs, too: docker run --gpus all
#   docker build -t wisesr --build-arg VARIANT=small .       # checks, predicts, evaluates and embeds, without TensorFlow
#
# Run it on the current folder, as oneself, so that runs/ belongs to oneself:
#
#   docker run --rm -v "$PWD":/work --user "$(id -u):$(id -g)" wisesr train photos
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . ./distributions/core

FROM python:${PYTHON}-slim
ARG VARIANT=cpu
ENV PYTHONUNBUFFERED=1
COPY --from=build /wheels /wheels
# The wheels have no fixed names: a version is in them. They are local files, and there is nothing to pin:
# hadolint ignore=DL3013
RUN case "$VARIANT" in \
      cpu) wheel="$(echo /wheels/wisesr_core-*.whl)[cpu]" ;; \
      gpu) wheel="$(echo /wheels/wisesr-*.whl)[gpu]" ;; \
      small) wheel="$(echo /wheels/wisesr_core-*.whl)" ;; \
      *) echo "VARIANT is $VARIANT; allowed: cpu, gpu, small" >&2; exit 2 ;; \
    esac \
 && pip install --no-cache-dir "$wheel" \
 && wisesr --version
# Not root. Whoever runs it, as `--user` says, may write the caches.
RUN useradd --uid 1000 --create-home wisesr && mkdir -m 1777 /caches
ENV WISESR_CACHE_DIR=/caches/wisesr KERAS_HOME=/caches/keras MPLCONFIGDIR=/caches/matplotlib
USER 1000
WORKDIR /work
ENTRYPOINT ["wisesr"]
CMD ["--help"]
