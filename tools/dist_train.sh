#!/usr/bin/env bash
# Train on the GPUs of this machine: tools/dist_train.sh CONFIG GPUS [options of train.py]
# On several machines, set NNODES, NODE_RANK and MASTER_ADDR on each; PORT when 29500 is taken.
set -eu
if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [options of train.py]" >&2
    exit 2
fi
CONFIG=$1
GPUS=$2
shift 2

"${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$GPUS" \
    "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "$@"
