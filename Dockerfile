# docker build -t birefnet .                              for CPUs
# docker build -t birefnet --build-arg VARIANT=cuda .     for NVIDIA GPUs (run with --gpus all)
# docker run --rm -v "$PWD:/data" birefnet predict photo.jpg -m weights.safetensors
ARG PYTHON=3.12
FROM python:${PYTHON}-slim

# cpu, or cuda: PyTorch from the package index brings the CUDA libraries that it was built with.
ARG VARIANT=cpu
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]

# What changes seldom comes first: its layer is kept.
WORKDIR /src
COPY requirements.txt ./
RUN case "$VARIANT" in \
        cpu) index=(--index-url https://download.pytorch.org/whl/cpu) ;; \
        cuda) index=() ;; \
        *) echo "VARIANT=$VARIANT: take cpu or cuda" >&2; exit 2 ;; \
    esac; \
    grep -E '^torch(vision)?[>=]' requirements.txt > /tmp/torch.txt; \
    pip install --no-cache-dir "${index[@]}" -r /tmp/torch.txt; \
    pip install --no-cache-dir -r requirements.txt; \
    rm /tmp/torch.txt

COPY . .
RUN pip install --no-cache-dir '.[predict]'

# Nobody special. Caches go where any user may write; give --user "$(id -u):$(id -g)" for results that are yours.
RUN useradd --create-home --uid 1000 birefnet
USER 1000
ENV PYTHONUNBUFFERED=1 XDG_CACHE_HOME=/tmp/cache HF_HOME=/tmp/cache/huggingface MPLCONFIGDIR=/tmp/cache/matplotlib
WORKDIR /data
ENTRYPOINT ["birefnet"]
CMD ["--help"]
