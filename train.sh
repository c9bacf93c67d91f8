#!/usr/bin/env bash
# Trains a run: ./train.sh RUN GPUS [key=value ...]      GPUS: a comma list such as 0,1, or cpu
# With several GPUs it starts one process for each by torchrun. For several nodes set NNODES, NODE_RANK and
# MASTER_ADDR (and MASTER_PORT) on each of them.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")" # also through a link
source ./runtime/launch.sh
if [ $# -lt 2 ] || [ -z "$1" ] || ! gpus "$2"; then
    sed -n '2,4s/^# //p' train.sh >&2
    exit 2
fi
run=$1 gpus=$2
shift 2
use_python
launch "$gpus" train.py --ckpt_dir "ckpts/$run" "$@"
