#!/usr/bin/env bash
# Trains a run, then writes and scores its masks:
#     ./sub.sh RUN TRAIN_GPUS [TEST_GPUS [key=value ...]]
# GPUS: a comma list such as 0,1, or cpu. TEST_GPUS: the first of TRAIN_GPUS if not given. Where
# sbatch is found it submits itself, with the account and the partition of SLURM_ACCOUNT and
# SLURM_PARTITION and CPUS_PER_GPU (8) cores; SUBMIT=no runs it here all the same. NNODES > 1
# trains on so many nodes.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")" # also through a link
source ./runtime/launch.sh
if [ $# -lt 2 ] || [ -z "$1" ] || ! gpus "$2" || ! gpus "${3:-cpu}"; then
    sed -n '2,7s/^# //p' sub.sh >&2
    exit 2
fi
run=$1 train_gpus=$2 test_gpus=${3:-${2%%,*}}
shift $(($# < 3 ? $# : 3))

if [ -z "${SLURM_JOB_ID:-}" ] && [ "${SUBMIT:-yes}" != no ] && command -v sbatch >/dev/null; then
    options=(--job-name "$run" --nodes "${NNODES:-1}" --ntasks-per-node 1 --output "ckpts/$run/slurm-%j.out"
             --signal B:USR1@120 --requeue --open-mode append)
    # Left to itself, Slurm gives a task a single core.
    if [ "$train_gpus" = cpu ]; then
        options+=(--exclusive)
    else
        options+=(--gpus-per-node "$(tr ',' '\n' <<<"$train_gpus" | grep -c .)" --cpus-per-gpu "${CPUS_PER_GPU:-8}")
    fi
    [ -z "${SLURM_ACCOUNT:-}" ] || options+=(--account "$SLURM_ACCOUNT")
    [ -z "${SLURM_PARTITION:-}" ] || options+=(--partition "$SLURM_PARTITION")
    mkdir -p "ckpts/$run"
    # Slurm runs a copy of what it is given, which would not find the other scripts beside it.
    exec sbatch "${options[@]}" --wrap \
        "exec $(printf '%q ' bash "$PWD/sub.sh" "$run" "$train_gpus" "$test_gpus" "$@" resume=auto)"
fi

# A test or evaluation starts where training ends; training options that only it knows do no harm to them.
train=(./train.sh "$run" "$train_gpus" "$@")
if [ -n "${SLURM_JOB_ID:-}" ] && [ "${NNODES:-1}" -gt 1 ]; then
    read -r MASTER_ADDR < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000)) # jobs may share a node
    # shellcheck disable=SC2016 # SLURM_NODEID is each node's own
    train=(srun --ntasks-per-node 1 --kill-on-bad-exit=1 bash -c 'NODE_RANK=$SLURM_NODEID exec "$@"' train "${train[@]}")
fi
# In the background, so that this shell passes Slurm's warning on at once; training saves its state and ends with 75.
code=0 warned=no interrupted=no
"${train[@]}" & child=$!
trap 'warned=yes; kill -USR1 "$child" 2>/dev/null || true' USR1
trap 'kill -TERM "$child" 2>/dev/null || true' TERM
trap 'kill -HUP "$child" 2>/dev/null || true' HUP # the terminal is closed
# A process in the background does not get Ctrl-C. Training saves its state and says so.
trap 'interrupted=yes; kill -TERM "$child" 2>/dev/null || true' INT
wait "$child" || code=$?
while kill -0 "$child" 2>/dev/null; do code=0; wait "$child" || code=$?; done
if [ "$code" -eq 75 ] && [ "$warned" = yes ] && [ -n "${SLURM_JOB_ID:-}" ]; then # not if it was cancelled
    scontrol requeue "$SLURM_JOB_ID"
fi
[ "$interrupted" = no ] || exit 130
[ "$code" -eq 0 ] || exit "$code"

overrides=()
for argument in "$@"; do
    case $argument in resume=* | weights=*) ;; *=*) overrides+=("$argument") ;; esac
done
NNODES=1 ./test.sh "$test_gpus" e_preds config --ckpt_folder "ckpts/$run" "${overrides[@]}"
