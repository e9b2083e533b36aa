# mmhybrid's commands in a container, on CPUs or on NVIDIA's GPUs:
#
#   docker build -t mmhybrid .
#   docker build -t mmhybrid:cuda --build-arg BASE=nvidia/cuda:12.6.3-base-ubuntu24.04 .
#   docker run --rm -v "$PWD":/work mmhybrid train mask_rcnn_transxnet_t_coco --quick
#   docker run --rm --gpus all --shm-size 8g -v "$PWD":/work -v /datasets:/data mmhybrid:cuda \
#       train mask_rcnn_transxnet_t_coco --data /data/mine
#
# The wheel of PyTorch brings CUDA's libraries and works without a GPU too: the base only has to let
# the driver in, which must be new enough for that PyTorch (2.15: CUDA 13). Never built yet, for want
# of a Docker daemon. Tried without it, on Debian 12 with Python 3.11: apt-get finds all packages, pip
# resolves the requirements, and the last step ends with both commands working.
ARG BASE=debian:bookworm-slim
FROM ${BASE}

# libgl1 and libglib2.0-0 are what OpenCV's wheel asks of the system.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        git libgl1 libglib2.0-0 python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/mmhybrid
ENV PATH=/opt/mmhybrid/bin:$PATH

# The requirements first: a change of the code does not install them anew.
COPY requirements /src/requirements
RUN pip install --no-cache-dir -c /src/requirements/constraints.txt \
    -r /src/requirements/runtime.txt -r /src/requirements/openmmlab.txt -r /src/requirements/export.txt
COPY . /src
RUN pip install --no-cache-dir --no-deps /src && mmhybrid --help && python -m mmhybrid --help

WORKDIR /work
ENTRYPOINT ["mmhybrid"]
CMD ["--help"]
